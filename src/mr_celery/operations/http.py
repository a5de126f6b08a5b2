"""The bridge's pages: ``/metrics``, ``/health/live`` and ``/health/ready``, and the page for operators if it is on."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from ..bridge import Bridge
from ..bridge.state import State
from ..errors import SettingsError
from ..serving import BackgroundServer, Limits, listen
from .metrics import LEDGER_SECONDS, exposition
from .pacing import Shared

logger = logging.getLogger("mr_celery.monitoring")

_CONNECTIONS = 64
_HEADER_BYTES = 16 * 1024
_REQUEST_SECONDS = 15.0
"""Seconds for a request and its response, besides the time that a scrape waits for the ledger."""

_NO_CACHE = {"Cache-Control": "no-store"}


def create_app(bridges: Sequence[Bridge], page: ASGIApp | None = None) -> Starlette:
    """Create the application.

    Args:
        bridges: the bridges.
        page: the page for operators, which gets all other requests.
    """
    pages = _Pages(bridges)
    return Starlette(
        routes=[
            Route("/metrics", pages.metrics),
            Route("/health/live", pages.live),
            Route("/health/ready", pages.ready),
            *([Mount("/", page)] if page is not None else []),
        ],
        exception_handlers={404: _not_found},
    )


class Web:
    """An HTTP server for the bridges of this process.

    Args:
        address: ``host:port``.
        bridges: the bridges.
        page: the page for operators; ``None``: it is off.

    Raises:
        SettingsError: the address cannot be used.
    """

    def __init__(self, address: str, bridges: Sequence[Bridge], page: ASGIApp | None = None) -> None:
        self._serves = "metrics and health" if page is None else "metrics, health and the page for operators"
        host, _, port = address.rpartition(":")
        try:
            listening = listen(host.strip("[]"), int(port))
        except OSError as error:
            raise SettingsError(
                f"modelreins_http: cannot listen on {address}: {error.strerror or error}. Choose another port, or stop "
                "the process that uses it"
            ) from error
        seconds = _REQUEST_SECONDS + LEDGER_SECONDS * len(bridges)
        limits = Limits(connections=_CONNECTIONS, header_bytes=_HEADER_BYTES, request_seconds=seconds)
        self._server = BackgroundServer(create_app(bridges, page), listening, limits, name="modelreins-http")

    def start(self) -> None:
        """Start the server."""
        self._server.start()
        host, port = self._server.address[:2]
        logger.info("%s at http://%s:%d", self._serves, f"[{host}]" if ":" in host else host, port)

    def stop(self) -> None:
        """Stop the server and close its socket."""
        self._server.stop()


class _Pages:
    """One method per page. Probes need no I/O: they report the state that the process already has."""

    def __init__(self, bridges: Sequence[Bridge]) -> None:
        self._bridges = bridges
        self._metrics = Shared(exposition(bridges))

    async def metrics(self, _: Request) -> Response:
        body, kind = await self._metrics()
        return Response(body, headers={**_NO_CACHE, "Content-Type": kind})

    async def live(self, _: Request) -> Response:
        return _health({bridge.context.settings.name: bridge.unwell() for bridge in self._bridges})

    async def ready(self, _: Request) -> Response:
        return _health(
            {bridge.context.settings.name: bridge.unready() for bridge in self._bridges},
            states={bridge.context.settings.name: _shown(bridge.states[0]) for bridge in self._bridges},
        )


def _health(troubles: Mapping[str, Mapping[str, str]], **more: object) -> Response:
    found = {name: trouble for name, trouble in troubles.items() if trouble}
    body = json.dumps({"ok": not found, "trouble": found, **more})  # in ASCII: texts may have any characters
    return Response(f"{body}\n", 503 if found else 200, _NO_CACHE, media_type="application/json")


def _shown(state: State) -> Mapping[str, str]:
    return {"kind": state.kind, "text": state.text, "what_to_do": state.advice}


async def _not_found(_: Request, __: Exception) -> Response:
    return PlainTextResponse(
        "not found; available are /metrics, /health/live and /health/ready. The page for operators is off: to serve it "
        "here, set MODELREINS_HTTP_TOKEN_FILE or MODELREINS_HTTP_TOKEN, and restart the bridge\n",
        404,
    )
