"""The routes for users that the product documentation names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .states import OPEN
from .store import Store
from .values import (
    MalformedError,
    any_text,
    number,
    one_of,
    parse_object,
    required_text,
)
from .worker_routes import id_of

DEFAULT_LIMIT = 100
PRIORITIES = ("low", "normal", "high")


class UserRoutes:
    """One method per route."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def routes(self) -> list[Route]:
        return [
            Route("/dispatch", self.dispatch, methods=["POST"]),
            Route("/presence", self.presence),
            Route("/api/jobs", self.jobs),
            Route("/api/jobs", self.create, methods=["POST"]),
            Route("/api/jobs/{id}", self.job),
            Route("/api/jobs/{id}", self.change, methods=["PUT"]),
            Route("/api/jobs/{id}/cancel", self.cancel, methods=["POST"]),
            Route("/api/jobs/{id}/retry", self.retry, methods=["POST"]),
            Route("/api/workers", self.workers),
            Route("/api/workers/{id}", self.worker),
            Route("/api/workers/{id}/pause", self.pause, methods=["POST"]),
            Route("/api/workers/{id}/resume", self.resume, methods=["POST"]),
        ]

    async def dispatch(self, request: Request) -> Response:
        prompt, worker, fields = _new_job(parse_object(await request.body()))
        return JSONResponse(self._store.dispatch(prompt, worker, fields))

    async def presence(self, request: Request) -> Response:
        return JSONResponse({"workers": self._store.workers()})

    async def create(self, request: Request) -> Response:
        prompt, worker, fields = _new_job(parse_object(await request.body()))
        return JSONResponse(self._store.create(prompt, worker, fields))

    async def jobs(self, request: Request) -> Response:
        query = request.query_params
        limit, offset = number(query, "limit"), number(query, "offset") or 0
        listed = self._store.jobs(
            status=one_of(query, "status", (*OPEN, *self._store.options.closed)) if "status" in query else None,
            provider=query.get("provider"),
            limit=DEFAULT_LIMIT if limit is None else limit,
            offset=offset,
        )
        return JSONResponse({"jobs": listed})

    async def job(self, request: Request) -> Response:
        return JSONResponse(self._store.job(id_of(request)))

    async def change(self, request: Request) -> Response:
        body = parse_object(await request.body())
        if unknown := sorted(body.keys() - {"tags", "priority", "tier"}):
            raise MalformedError(f"{unknown[0]} cannot be changed: only tags, priority and tier can")
        tags = body.get("tags")
        if not isinstance(tags, (list, type(None))) or any(not isinstance(tag, str) for tag in tags or ()):
            raise MalformedError("tags must be a list of strings, or null")
        if body.get("priority") is not None:
            one_of(body, "priority", PRIORITIES)
        return JSONResponse(self._store.change(id_of(request), body))

    async def cancel(self, request: Request) -> Response:
        job_id = id_of(request)
        self._store.abort(job_id)
        return JSONResponse(self._store.job(job_id))

    async def retry(self, request: Request) -> Response:
        job_id = id_of(request)
        self._store.requeue(job_id, "retry")
        return JSONResponse(self._store.job(job_id))

    async def workers(self, request: Request) -> Response:
        return JSONResponse({"workers": self._store.directory.all()})

    async def worker(self, request: Request) -> Response:
        return JSONResponse(self._store.directory.worker(id_of(request, "worker")))

    async def pause(self, request: Request) -> Response:
        return JSONResponse(self._store.directory.pause(id_of(request, "worker"), paused=True))

    async def resume(self, request: Request) -> Response:
        return JSONResponse(self._store.directory.pause(id_of(request, "worker"), paused=False))


def _new_job(body: Mapping[str, Any]) -> tuple[str, str | None, dict[str, Any]]:
    """The prompt, the worker name, and the further fields of a new job."""
    worker = None if body.get("worker") is None else required_text(body, "worker")
    fields = {name: value for name, value in body.items() if name not in ("prompt", "worker")}
    return any_text(body, "prompt"), worker, fields
