"""What an operator does on the server: dispatch, abort, requeue, decide, and look at everything."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..version import __version__
from .states import STATUSES
from .store import NotFoundError, Store
from .values import any_text, digits, number, one_of, parse_object, required_text
from .worker_routes import job_id_of

DEFAULT_LIMIT = 100


class OperatorRoutes:
    """One method for each route."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def routes(self) -> list[Route]:
        return [
            Route("/dispatch", self.dispatch, methods=["POST"]),
            Route("/jobs", self.jobs),
            Route("/jobs/{id}/abort", self.abort, methods=["POST"]),
            Route("/jobs/{id}/requeue", self.requeue, methods=["POST"]),
            Route("/jobs/{id}/events", self.events),
            Route("/abort-all", self.abort_all, methods=["POST"]),
            Route("/presence", self.workers),
            Route("/artifacts", self.artifacts),
            Route("/reviews", self.reviews),
            Route("/reviews/{id}/approve", self.approve, methods=["POST"]),
            Route("/reviews/{id}/reject", self.reject, methods=["POST"]),
            Route("/health", self.health),
        ]

    async def dispatch(self, request: Request) -> Response:
        body = parse_object(await request.body())
        prompt = any_text(body, "prompt")
        worker = None if body.get("worker") is None else required_text(body, "worker")
        fields = {name: value for name, value in body.items() if name not in ("prompt", "worker")}
        return JSONResponse(self._store.dispatch(prompt, worker, fields), 201)

    async def jobs(self, request: Request) -> Response:
        query = request.query_params
        limit = number(query, "limit")
        listed = self._store.jobs(
            worker=query.get("worker"),
            status=one_of(query, "status", STATUSES) if "status" in query else None,
            limit=DEFAULT_LIMIT if limit is None else limit,
            offset=number(query, "offset") or 0,
        )
        return JSONResponse({"jobs": listed})

    async def abort(self, request: Request) -> Response:
        job_id = job_id_of(request)
        return JSONResponse({"success": True, "id": job_id, "status": self._store.abort(job_id)})

    async def requeue(self, request: Request) -> Response:
        job_id = job_id_of(request)
        return JSONResponse({"success": True, "id": job_id, "status": self._store.requeue(job_id)})

    async def events(self, request: Request) -> Response:
        job = self._store.job(job_id_of(request))
        return JSONResponse({"events": self._store.events(job["id"])})

    async def abort_all(self, request: Request) -> Response:
        return JSONResponse({"aborted": self._store.abort_all()})

    async def workers(self, request: Request) -> Response:
        return JSONResponse({"workers": self._store.workers()})

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
        return JSONResponse({"ok": True, "version": __version__})
