"""Routes that show pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from ...web import HEADERS, Brake
from ..chaos import DELAYS, FAULTS, ROUTES, Chaos
from ..registrations import Registrations
from ..states import OPEN
from ..store import Store
from ..values import NotFoundError, digits, number
from ..worker_routes import id_of
from . import archive, bulk, faults, filters, overview, queries, views
from .draft import PRIORITIES, Draft
from .rendering import Templates


class PageRoutes:
    """One method per page.

    Args:
        store: the state.
        chaos: the faults.
        registrations: the registered workers.
        brake: slows down wrong links to tokens.
        templates: renders the pages.
    """

    def __init__(
        self, store: Store, chaos: Chaos, registrations: Registrations, brake: Brake, templates: Templates
    ) -> None:
        self._store = store
        self._brake = brake
        self._chaos = chaos
        self._registrations = registrations
        self._templates = templates

    def routes(self) -> list[Route]:
        return [
            Route("/ui/jobs", self.jobs),
            Route("/ui/jobs/{id}", self.job),
            Route("/ui/jobs/{id}/result", self.result),
            Route("/ui/jobs/{id}/artifacts.zip", self.artifacts),
            Route("/ui/reviews", self.reviews),
            Route("/ui/workers", self.workers),
            Route("/ui/faults", self.faults),
            Route("/view/{key}", self.reveal, methods=["GET"]),
        ]

    async def jobs(self, request: Request) -> Response:
        copied = number(request.query_params, "copy")
        draft = Draft() if copied is None else Draft.of_job(self._store.job(copied))
        return await self.jobs_with(request, draft, opened=copied is not None)

    async def jobs_with(
        self, request: Request, draft: Draft, *, opened: bool = False, error: str = "", status: int = 200
    ) -> Response:
        """Show the list of jobs and the dispatch form."""
        store, now = self._store, self._store.clock()
        wanted = self.filter_of(request.query_params)
        page = queries.jobs(store, wanted, digits(request.query_params.get("page", "")) or 1)
        known = queries.workers(store)
        return await self._templates.answer(
            request,
            "jobs.html",
            status=status,
            wanted=wanted,
            page=page,
            jobs=[views.listed(job, now) for job in page.jobs],
            periods=filters.PERIODS,
            orders=filters.ORDERS,
            acts=bulk.possible(page.statuses(wanted)),
            known=known,
            declared=views.declared(known),
            required=queries.capabilities(store),
            priorities=PRIORITIES,
            draft=draft,
            opened=opened or bool(error),
            error=error,
            pace=overview.pace(store),
            run_times=overview.run_times(store),
        )

    def filter_of(self, values: Mapping[str, str]) -> filters.Filter:
        """The filter in a query string or form."""
        known = (*OPEN, *self._store.options.closed, *queries.tally(self._store))
        return filters.Filter.of(values, known)

    async def ask(
        self, request: Request, question: str, details: str, button: str, *, danger: bool = False
    ) -> Response:
        """Ask before an action. The script shows a dialog; without it, this is a page. Both send the form again.

        Args:
            request: the form that was sent, without the field ``confirmed``.
            question: the question.
            details: further text.
            button: the label of the button.
            danger: whether the button is red.
        """
        asked: dict[str, Any] = {"question": question, "details": details, "button": button, "danger": danger}
        if wants_json(request):
            return JSONResponse(asked)
        fields = [(name, value) for name, value in (await request.form()).multi_items() if isinstance(value, str)]
        return await self._templates.answer(request, "confirm.html", fields=fields, **asked)

    async def job(self, request: Request) -> Response:
        wanted, job_id = self.filter_of(request.query_params), id_of(request)
        shown = views.job(self._store, job_id, str(request.base_url).rstrip("/"))
        before, after = queries.neighbours(self._store, wanted, job_id)
        return await self._templates.answer(request, "job.html", **shown, wanted=wanted, before=before, after=after)

    async def artifacts(self, request: Request) -> Response:
        job_id = id_of(request)
        self._store.job(job_id)
        files = views.available(self._store, job_id)
        names = archive.safe_names(row["filename"] for row in files)
        parts = archive.zipped(zip(names, (row["path"] for row in files), strict=True))
        headers = {**HEADERS, "Content-Disposition": f"attachment; filename=job-{job_id}-artifacts.zip"}
        return StreamingResponse(parts, headers=headers, media_type="application/zip")

    async def result(self, request: Request) -> Response:
        return PlainTextResponse(self._store.job(id_of(request))["result"] or "", headers=HEADERS)

    async def reviews(self, request: Request) -> Response:
        before = digits(request.query_params.get("before", ""))
        size = 20
        pending = queries.reviews(self._store, "pending", before, size + 1)
        approvals = queries.awaiting(self._store) if before is None else []
        decided = queries.decided_reviews(self._store) if before is None else []
        return await self._templates.answer(
            request,
            "reviews.html",
            approvals=[views.approval(self._store, each) for each in approvals],
            pending=[views.review(self._store, each) for each in pending[:size]],
            older=pending[size - 1]["id"] if len(pending) > size else None,
            decided=[views.review(self._store, each) for each in decided],
        )

    async def workers(self, request: Request) -> Response:
        return await self._templates.answer(request, "workers.html", workers=queries.workers(self._store))

    async def faults(self, request: Request) -> Response:
        return await self.faults_with(request)

    async def faults_with(self, request: Request, *, error: str = "", status: int = 200) -> Response:
        """Show the active faults and the forms that set them."""
        counts: dict[str, dict[str, int]] = {}
        for (route, fault), times in sorted(self._chaos.counts.items()):
            counts.setdefault(route, {})[fault] = times
        return await self._templates.answer(
            request,
            "faults.html",
            status=status,
            presets=faults.PRESETS,
            active=[(faults.title_of(rule), faults.description(rule), rule.seconds) for rule in self._chaos.rules],
            replaced=faults.names(self._chaos.replaced),
            kinds=FAULTS,
            delayed=DELAYS,
            routes=ROUTES,
            counts=counts,
            tally=queries.tally(self._store),
            error=error,
        )

    async def reveal(self, request: Request) -> Response:
        if request.method == "HEAD":  # sent by link previews, which must not use up the link
            return Response(status_code=405, headers={"Allow": "GET"})
        try:
            name, token = self._registrations.reveal(request.path_params["key"])
        except NotFoundError:
            if await self._brake.is_too_fast(request.scope):
                raise HTTPException(429, "too many wrong links: try again in a few seconds") from None
            raise
        base = str(request.base_url).rstrip("/")
        return await self._templates.answer(request, "token.html", name=name, token=token, base=base)


def wants_json(request: Request) -> bool:
    """Whether the request comes from the page's script."""
    return "application/json" in request.headers.get("accept", "")
