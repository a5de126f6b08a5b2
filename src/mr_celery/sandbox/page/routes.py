"""The pages that are looked at."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ..chaos import DELAYS, FAULTS, ROUTES, Chaos
from ..registrations import Registrations
from ..states import STATUSES
from ..store import Store
from ..values import clean_text, digits, number
from ..worker_routes import job_id_of
from . import faults, queries, views
from .draft import PRIORITIES, Draft
from .rendering import HEADERS, Templates


class PageRoutes:
    """One method for each page.

    Args:
        store: the state.
        chaos: the faults.
        registrations: the tokens that are revealed.
        templates: the pages.
    """

    def __init__(self, store: Store, chaos: Chaos, registrations: Registrations, templates: Templates) -> None:
        self._store = store
        self._chaos = chaos
        self._registrations = registrations
        self._templates = templates

    def routes(self) -> list[Route]:
        return [
            Route("/ui/jobs", self.jobs),
            Route("/ui/jobs/{id}", self.job),
            Route("/ui/jobs/{id}/result", self.result),
            Route("/ui/reviews", self.reviews),
            Route("/ui/workers", self.workers),
            Route("/ui/faults", self.faults),
            Route("/view/{key}", self.reveal, methods=["GET"]),
        ]

    async def jobs(self, request: Request) -> Response:
        copied = number(request.query_params, "copy")
        draft = Draft() if copied is None else Draft.of_job(self._store.job(copied))
        return self.jobs_with(request, draft, opened=copied is not None)

    def jobs_with(
        self, request: Request, draft: Draft, *, opened: bool = False, error: str = "", status: int = 200
    ) -> Response:
        """The list of jobs, and the form that dispatches more."""
        query, now = request.query_params, self._store.clock()
        wanted = queries.Filter(
            text=clean_text(query.get("q", "").strip()),
            status=query.get("status", "") if query.get("status") in STATUSES else "",
            worker=clean_text(query.get("worker", "")),
            before=digits(query.get("before", "")),
            after=digits(query.get("after", "")),
        )
        page = queries.jobs(self._store, wanted)
        tally = queries.tally(self._store, wanted.worker)
        return self._templates.answer(
            request,
            "jobs.html",
            status=status,
            wanted=wanted,
            page=page,
            jobs=[views.listed(job, now) for job in page.jobs],
            tally=tally,
            total=sum(tally.values()),
            known=queries.workers(self._store),
            statuses=STATUSES,
            priorities=PRIORITIES,
            draft=draft,
            opened=opened or bool(error),
            error=error,
        )

    async def job(self, request: Request) -> Response:
        return self._templates.answer(request, "job.html", **views.job(self._store, job_id_of(request)))

    async def result(self, request: Request) -> Response:
        return PlainTextResponse(self._store.job(job_id_of(request))["result"] or "", headers=HEADERS)

    async def reviews(self, request: Request) -> Response:
        before = digits(request.query_params.get("before", ""))
        size = 20
        pending = queries.reviews(self._store, "pending", before, size + 1)
        decided: list[dict[str, Any]] = []
        if before is None:
            both = [each for status in ("approved", "rejected") for each in queries.reviews(self._store, status)]
            decided = sorted(both, key=lambda each: -int(each["id"]))[: queries.PAGE_SIZE]
        return self._templates.answer(
            request,
            "reviews.html",
            pending=[views.review(self._store, each) for each in pending[:size]],
            older=pending[size - 1]["id"] if len(pending) > size else None,
            decided=decided,
        )

    async def workers(self, request: Request) -> Response:
        return self._templates.answer(request, "workers.html", workers=queries.workers(self._store))

    async def faults(self, request: Request) -> Response:
        return self.faults_with(request)

    def faults_with(self, request: Request, *, error: str = "", status: int = 200) -> Response:
        """The faults in force, and the forms that set them."""
        counts: dict[str, dict[str, int]] = {}
        for (route, fault), times in sorted(self._chaos.counts.items()):
            counts.setdefault(route, {})[fault] = times
        return self._templates.answer(
            request,
            "faults.html",
            status=status,
            presets=faults.PRESETS,
            kinds=FAULTS,
            delayed=DELAYS,
            routes=ROUTES,
            counts=counts,
            tally=queries.tally(self._store),
            error=error,
        )

    async def reveal(self, request: Request) -> Response:
        if request.method == "HEAD":  # whoever only looks whether the address exists does not use it up
            return Response(status_code=405, headers={"Allow": "GET"})
        name, token = self._registrations.reveal(request.path_params["key"])
        base = str(request.base_url).rstrip("/")
        return self._templates.answer(request, "token.html", name=name, token=token, base=base)
