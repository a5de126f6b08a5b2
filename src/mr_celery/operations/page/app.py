"""The page as an ASGI application."""

from __future__ import annotations

import hmac
import re
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ...bridge import Bridge
from ...clients import Clients
from ...errors import LedgerUnavailable, MrCeleryError
from ...ledger import IN_FLIGHT
from ...server.api import job_address
from ...server.token import Token
from ...telemetry.printing import printable_line
from ...telemetry.quantities import duration
from ...web import Brake, Files, Guard, LoginRoutes, Sessions, Templates
from ..jobs import ABSENT, History, history_of
from ..metrics import LEDGER_SECONDS
from ..pacing import Shared
from .overview import JOBS_OF_STATE, NameRow, Overview, name_rows, read_overview

PACE_SECONDS = 1.0
"""Minimum time in seconds between two reads of a worker name or a job from the ledger, for all viewers together."""

MOST_NAMES = 100
"""Maximum number of worker names that are listed. The filter finds the others."""

MOST_MEMBERS = 50
"""Maximum number of members of a workflow that are shown."""

_MOST_JOBS = 200
"""Maximum number of jobs whose histories are shared by their viewers at the same time."""

_MOST_CHARACTERS = 1000
_OPEN_PATHS = re.compile(r"/login|/static/.+")


class Page:
    """The page, for those with a session or the token.

    Args:
        bridges: the bridges of this process.
        token: the token; its file is checked on each use.
    """

    def __init__(self, bridges: Sequence[Bridge], token: Token) -> None:
        self._token = token
        self._brake = Brake()
        sessions = Sessions(root="", name="mr_celery_bridge")
        templates = Templates(
            __package__, brand="bridge", root="", common_context=_common_context,
            filters={"duration": duration},
            finalize=_printable,
        )  # fmt: skip
        views = _Views(bridges, templates)
        refusal = "This is not the token of this page."
        login = LoginRoutes(sessions, self._accepts, self._brake, templates, home="/", refusal=refusal)
        self._pages = Starlette(
            routes=[*login.routes(), *views.routes(), Mount("/static", Files(__package__))],
            exception_handlers={
                MrCeleryError: views.known_error,
                HTTPException: views.http_error,
                Exception: views.unknown_error,
            },
        )
        self._pages.router.redirect_slashes = False
        self._guarded: ASGIApp = Guard(self._pages, sessions=sessions, open_paths=_OPEN_PATHS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        header = dict(scope["headers"]).get(b"authorization")
        if header is None:
            await self._guarded(scope, receive, send)
        elif header[:7].lower() == b"bearer " and self._accepts(header[7:].strip()):
            await self._pages(scope, receive, send)
        else:
            await (await self._refusal(scope))(scope, receive, send)

    def _accepts(self, given: bytes) -> bool:
        self._token.look()
        return hmac.compare_digest(given, self._token.value.encode())

    async def _refusal(self, scope: Scope) -> Response:
        if await self._brake.is_too_fast(scope):
            headers = {"Retry-After": "3", "Connection": "close"}
            return PlainTextResponse("too many wrong tokens: try again in a few seconds\n", 429, headers)
        return PlainTextResponse("this is not the token of this page (MODELREINS_HTTP_TOKEN)\n", 401)


class _Views:
    """One method per page. Each reads its content at most once a second for all viewers together."""

    def __init__(self, bridges: Sequence[Bridge], templates: Templates) -> None:
        self._bridges = {bridge.context.settings.name: bridge for bridge in bridges}
        self._templates = templates
        self._names = Shared(lambda: name_rows(bridges), seconds=PACE_SECONDS)
        # The page's connections for each worker name, with a timeout of their own.
        self._clients = {
            name: Clients(bridge.context.settings, ledger_timeout=LEDGER_SECONDS)
            for name, bridge in self._bridges.items()
        }
        self._overviews: dict[str, Shared[Overview]] = {}
        self._last: dict[str, tuple[float, Overview]] = {}
        self._histories: OrderedDict[tuple[str, int], Shared[History]] = OrderedDict()

    def routes(self) -> list[Route]:
        return [
            Route("/", self.overview),
            Route("/jobs", self.find_job),
            Route("/jobs/{id}", self.job),
        ]

    async def overview(self, request: Request) -> Response:
        query = request.query_params
        names = list(self._bridges)
        name = query.get("name") or (names[0] if len(names) == 1 else "")
        if name and name not in self._bridges:
            raise HTTPException(404, f"this bridge has no worker name {name!r}")
        wanted = query.get("q", "")
        rows = [] if name else await self._names()
        return await self._templates.answer(
            request,
            "overview.html",
            name=name,
            several=len(names) > 1,
            **_found(rows, wanted),
            **(await self._of_name(name, query.get("state", "")) if name else {}),
        )

    async def _of_name(self, name: str, state: str) -> Mapping[str, Any]:
        bridge, clients, trouble = self._bridges[name], self._clients[name], ""
        read = self._overviews.setdefault(name, Shared(lambda: read_overview(bridge, clients), seconds=PACE_SECONDS))
        try:
            self._last[name] = (time.monotonic(), await read())
        except LedgerUnavailable as error:
            trouble = str(error)
        read_at, overview = self._last.get(name, (0.0, None))
        wanted = state if state in IN_FLIGHT else ""
        return {
            "overview": overview,
            "trouble": trouble,
            "age": time.monotonic() - read_at,
            "states": (overview.status.state, *overview.status.problems) if overview and not trouble else bridge.states,
            "wanted": wanted,
            "jobs": [each for each in overview.jobs if wanted in ("", each.job.state)] if overview else [],
            "most": JOBS_OF_STATE,
        }

    async def find_job(self, request: Request) -> Response:
        job_id, name = _id(request.query_params.get("id", "")), request.query_params.get("name", "")
        return RedirectResponse(f"/jobs/{job_id}" + (f"?name={name}" if name in self._bridges else ""), 303)

    async def job(self, request: Request) -> Response:
        job_id, name = _id(request.path_params["id"]), request.query_params.get("name", "")
        key = (name if name in self._bridges else "", job_id)
        read = self._histories.pop(key, None) or Shared(lambda: self._read_history(*key), seconds=PACE_SECONDS)
        self._histories[key] = read
        while len(self._histories) > _MOST_JOBS:
            self._histories.popitem(last=False)
        history = await read()
        url = self._bridges[history.job.worker_name].context.settings.url
        members = history.members
        shown = members if len(members) <= MOST_MEMBERS else [each for each in members if each.state != "done"]
        events = history.events
        return await self._templates.answer(
            request,
            "job.html",
            history=history,
            output=job_address(url, job_id) if url and history.job.over else "",
            members=shown[:MOST_MEMBERS],
            events=[(each, each.at - before.at) for before, each in zip((*events[:1], *events), events, strict=False)],
        )

    def _read_history(self, name: str, job_id: int) -> History:
        """Read the history of a job, of any worker name if none is given."""
        names = [name] if name else list(self._bridges)
        for each in names:
            ledger = self._clients[each].ledger()
            if len(names) == 1 or next(ledger.outlines([job_id]), None) is not None:
                return history_of(ledger, job_id)
        raise MrCeleryError(f"job {job_id} is in no ledger of this bridge: {ABSENT}")

    async def known_error(self, request: Request, error: Exception) -> Response:
        return await self._error(request, str(error), 503 if isinstance(error, LedgerUnavailable) else 404)

    async def http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
        message = "there is no such page" if error.detail == "Not Found" else error.detail
        return await self._error(request, message, error.status_code)

    async def unknown_error(self, request: Request, error: Exception) -> Response:
        return await self._error(request, "internal error: see the traceback in the bridge's log", 500)

    async def _error(self, request: Request, message: str, status: int) -> Response:
        return await self._templates.answer(request, "error.html", status=status, message=message)


def _common_context(_: Request) -> Mapping[str, Any]:
    return {"now": time.time()}


def _printable(value: Any) -> Any:
    """Make a template's text printable on one line. Markup, and counts with narrow spaces, are not changed."""
    if type(value) is not str or value.replace("\N{NARROW NO-BREAK SPACE}", "").isdigit():
        return value
    return printable_line(value, _MOST_CHARACTERS)


def _found(rows: Sequence[NameRow], text: str) -> dict[str, Any]:
    found = [row for row in rows if text.lower() in row.name.lower()]
    return {"q": text, "found": len(found), "wrong": sum(row.state.wrong for row in rows), "names": found[:MOST_NAMES]}


def _id(text: str) -> int:
    number = text.strip().removeprefix("#")
    if not (number.isascii() and number.isdigit() and len(number) < 20):
        raise HTTPException(404, f"{text!r} is not the id of a job")
    return int(number)
