"""The sandbox's own routes for operators. The documented ones are in :mod:`~mr_celery.sandbox.user_routes`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..version import __version__
from .killswitch import LEVELS
from .states import OPEN
from .store import Store
from .user_routes import DEFAULT_LIMIT
from .values import NotFoundError, digits, number, one_of, parse_object, required_text
from .worker_routes import id_of


class OperatorRoutes:
    """One method per route."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def routes(self) -> list[Route]:
        routes = [
            Route("/jobs", self.jobs),
            Route("/jobs/{id}/abort", self.abort, methods=["POST"]),
            Route("/jobs/{id}/requeue", self.requeue, methods=["POST"]),
            Route("/jobs/{id}/approve", self.approve_job, methods=["POST"]),
            Route("/jobs/{id}/reject", self.reject_job, methods=["POST"]),
            Route("/jobs/{id}/dispatch", self.assign, methods=["POST"]),
            Route("/jobs/{id}/events", self.events),
            Route("/abort-all", self.abort_all, methods=["POST"]),
            Route("/killswitch", self.killswitch),
            Route("/killswitch", self.switch_on, methods=["POST"]),
            Route("/killswitch", self.switch_off, methods=["DELETE"]),
            Route("/health", self.health),
        ]
        if self._store.options.has_artifacts:
            routes += [
                Route("/artifacts", self.artifacts),
                Route("/reviews", self.reviews),
                Route("/reviews/{id}/approve", self.approve, methods=["POST"]),
                Route("/reviews/{id}/reject", self.reject, methods=["POST"]),
            ]
        return routes

    async def jobs(self, request: Request) -> Response:
        query = request.query_params
        limit = number(query, "limit")
        listed = self._store.jobs(
            worker=query.get("worker"),
            status=one_of(query, "status", (*OPEN, *self._store.options.closed)) if "status" in query else None,
            limit=DEFAULT_LIMIT if limit is None else limit,
            offset=number(query, "offset") or 0,
        )
        return JSONResponse({"jobs": listed})

    async def abort(self, request: Request) -> Response:
        job_id = id_of(request)
        return JSONResponse({"success": True, "id": job_id, "status": self._store.abort(job_id)})

    async def requeue(self, request: Request) -> Response:
        job_id = id_of(request)
        return JSONResponse({"success": True, "id": job_id, "status": self._store.requeue(job_id)})

    async def events(self, request: Request) -> Response:
        job = self._store.job(id_of(request))
        return JSONResponse({"events": self._store.events(job["id"])})

    async def abort_all(self, request: Request) -> Response:
        return JSONResponse({"aborted": self._store.abort_all()})

    async def approve_job(self, request: Request) -> Response:
        return JSONResponse({"approved": self._store.approvals.approve(id_of(request))})

    async def reject_job(self, request: Request) -> Response:
        job_id = id_of(request)
        return JSONResponse({"success": True, "id": job_id, "status": self._store.reject(job_id)})

    async def assign(self, request: Request) -> Response:
        body = parse_object(await request.body() or b"{}")
        worker = None if body.get("worker") is None else required_text(body, "worker")
        return JSONResponse(self._store.assign(id_of(request), worker))

    async def killswitch(self, request: Request) -> Response:
        return JSONResponse(self._store.killswitch.state)

    async def switch_on(self, request: Request) -> Response:
        level = one_of({"level": "abort", **parse_object(await request.body() or b"{}")}, "level", tuple(LEVELS))
        aborted = self._store.killswitch.switch_on(level)
        return JSONResponse({**self._store.killswitch.state, "aborted": aborted})

    async def switch_off(self, request: Request) -> Response:
        self._store.killswitch.clear()
        return JSONResponse(self._store.killswitch.state)

    async def artifacts(self, request: Request) -> Response:
        kept = self._store.artifacts(number(request.query_params, "job_id"))
        return JSONResponse({"artifacts": [{**each, "url": f"/s/{each['slug']}"} for each in kept]})

    async def reviews(self, request: Request) -> Response:
        return JSONResponse({"reviews": self._store.reviews()})

    async def approve(self, request: Request) -> Response:
        return self._decide(request, "approved")

    async def reject(self, request: Request) -> Response:
        return self._decide(request, "rejected")

    def _decide(self, request: Request, status: str) -> Response:
        text = request.path_params["id"]
        review_id = digits(text)
        if review_id is None:
            raise NotFoundError(f"there is no review {text[:40]!r}")
        return JSONResponse(self._store.decide(review_id, status))

    async def health(self, request: Request) -> Response:
        return JSONResponse({"ok": True, "version": __version__, "server_version": self._store.options.version})
