"""The sandbox's routes: WIRE.md's, and those of an operator."""

from __future__ import annotations

import datetime as dt
import hmac
import json
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from .states import CLOSED, STATUSES, NotInThatState
from .store import NotFound, Store

INLINE = ("image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "application/pdf", "text/plain")
MAX_ID = 2**63 - 1

Body = Mapping[str, Any]


class BadRequest(HTTPException):
    """The request is not what the protocol says (400)."""

    def __init__(self, why: str) -> None:
        super().__init__(400, why)


class _Token:
    """Refuses every request without the token in the same words, before anything else is looked at."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._public(scope["path"]):
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                await JSONResponse({"error": "Unauthorized"}, 401)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    @staticmethod
    def _public(path: str) -> bool:
        return path == "/health" or path.startswith("/s/")


def create_app(store: Store, token: str) -> Starlette:
    """The server as an ASGI application.

    Args:
        store: its state.
        token: the worker token; the registration takes it as the admin token too.
    """
    routes = _Routes(store)
    return Starlette(
        routes=[
            Route("/presence", routes.report_presence, methods=["PUT"]),
            Route("/my-jobs", routes.my_jobs, methods=["GET"]),
            Route("/jobs/{id}/claim", routes.claim, methods=["POST"]),
            Route("/jobs/{id}/close", routes.close, methods=["POST"]),
            Route("/artifacts/upload", routes.upload, methods=["POST"]),
            Route("/s/{slug}", routes.serve_artifact, methods=["GET"]),
            Route("/review", routes.submit_review, methods=["POST"]),
            Route("/jobs/{id}", routes.job, methods=["GET"]),
            Route("/api/v1/workers/register", routes.register, methods=["POST"]),
            Route("/dispatch", routes.dispatch, methods=["POST"]),
            Route("/jobs/{id}/abort", routes.abort, methods=["POST"]),
            Route("/jobs/{id}/requeue", routes.requeue, methods=["POST"]),
            Route("/jobs/{id}/events", routes.events, methods=["GET"]),
            Route("/abort-all", routes.abort_all, methods=["POST"]),
            Route("/jobs", routes.jobs, methods=["GET"]),
            Route("/presence", routes.workers, methods=["GET"]),
            Route("/artifacts", routes.artifacts, methods=["GET"]),
            Route("/reviews", routes.reviews, methods=["GET"]),
            Route("/reviews/{id}/{decision:str}", routes.decide, methods=["POST"]),
            Route("/health", routes.health, methods=["GET"]),
        ],
        middleware=[Middleware(_Token, token=token)],
        exception_handlers={
            HTTPException: _http_error,
            NotFound: lambda _, error: JSONResponse({"error": str(error)}, 404),
            NotInThatState: lambda _, error: JSONResponse({"error": str(error)}, 409),
            Exception: lambda _, error: JSONResponse({"error": "internal error"}, 500),
        },
    )


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


class _Routes:
    """One method for each route. What SQLite does is quick; a file is copied in a thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # -- the worker protocol -------------------------------------------------------------------------

    async def report_presence(self, request: Request) -> Response:
        body = await _body(request)
        _required_text(body, "instance")
        fields = {key: _optional_text(body, key) for key in ("instance", "status", "details", "tags", "worker_type")}
        self._store.report(fields)
        return JSONResponse({"ok": True})

    async def my_jobs(self, request: Request) -> Response:
        worker = request.query_params.get("worker")
        if not worker:
            raise BadRequest("worker= is missing")
        status = request.query_params.get("status", "pending")
        if status not in STATUSES:
            raise BadRequest(f"status= must be one of {', '.join(STATUSES)}")
        return _json({"jobs": self._store.jobs(worker=worker, status=status)})

    async def claim(self, request: Request) -> Response:
        body = await _body(request)
        status = self._store.act(_id(request), "claim", worker=_required_text(body, "worker"))
        return _json({"success": True, "id": _id(request), "status": status})

    async def close(self, request: Request) -> Response:
        body = await _body(request)
        result = body.get("result")
        if not isinstance(result, str):
            raise BadRequest("result must be a string")
        if body.get("status") not in CLOSED:
            raise BadRequest(f"status must be one of {', '.join(CLOSED)}")
        status = self._store.act(_id(request), "close", result=_clean(result), status=body["status"])
        return _json({"success": True, "id": _id(request), "status": status})

    async def upload(self, request: Request) -> Response:
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise BadRequest("the body must be multipart/form-data")
        async with request.form(max_files=1, max_fields=10) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile) or not file.filename:
                raise BadRequest("the part 'file' with a file name is missing")
            texts = {key: value for key, value in form.items() if isinstance(value, str)}
            expires_at = texts.get("expires_at")
            if expires_at is not None:
                _time(expires_at)
            fields = {
                "content_type": _clean(file.content_type or "application/octet-stream"),
                "filename": _clean(texts.get("filename") or file.filename),
                "job_id": _number(texts, "job_id"),
                "review_id": _number(texts, "review_id"),
                "expires_at": expires_at,
            }
            kept = await run_in_threadpool(self._store.add_artifact, file.file, fields)
        return _json(
            {
                "success": True,
                "slug": kept["slug"],
                "url": f"/s/{kept['slug']}",
                "content_type": kept["content_type"],
                "size_bytes": kept["size_bytes"],
                "filename": kept["filename"],
            }
        )

    async def serve_artifact(self, request: Request) -> Response:
        artifact = self._store.artifact(request.path_params["slug"])
        if artifact["expires_at"] and _time(artifact["expires_at"]) < dt.datetime.now(dt.timezone.utc):
            raise HTTPException(410, "this artifact has expired")
        kind = artifact["content_type"].split(";")[0].strip().lower()
        shown = kind in INLINE or kind.startswith(("video/", "audio/"))
        disposition = "inline" if shown else "attachment"
        return FileResponse(
            artifact["path"],
            media_type=_header_safe(artifact["content_type"]),
            headers={
                # Whatever a job has made must not run script where the operator is logged in.
                "Content-Disposition": f"{disposition}; filename*=UTF-8''{quote(artifact['filename'], safe='')}",
                "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; "
                "media-src 'self'",
                "X-Content-Type-Options": "nosniff",
                "Cross-Origin-Resource-Policy": "same-origin",
                "Referrer-Policy": "no-referrer",
                "Cache-Control": "private, max-age=3600",
            },
        )

    async def submit_review(self, request: Request) -> Response:
        body = await _body(request)
        fields = {key: _required_text(body, key) for key in ("type", "title")}
        texts = {key: _optional_text(body, key) for key in ("preview", "target", "created_by")}
        job_id = body.get("job_id")
        if job_id is not None and (isinstance(job_id, bool) or not isinstance(job_id, int) or abs(job_id) > MAX_ID):
            raise BadRequest("job_id must be an integer or null")
        content = _optional_text(body, "content") or ""
        review = self._store.add_review({**fields, **texts, "content": content, "job_id": job_id})
        return _json({"id": review["id"], "status": review["status"], "mode": "review"})

    async def job(self, request: Request) -> Response:
        return _json(self._store.job(_id(request)))

    async def register(self, request: Request) -> Response:
        body = await _body(request)
        name = _required_text(body, "name")
        if not isinstance(body.get("capabilities", []), list):
            raise BadRequest("capabilities must be a list")
        view = f"{request.base_url}view/{secrets.token_urlsafe(16)}"
        return _json({"success": True, "name": name, "view_url": view})

    # -- the operator --------------------------------------------------------------------------------

    async def dispatch(self, request: Request) -> Response:
        body = await _body(request)
        prompt = _required_text(body, "prompt", empty=True)
        worker = _optional_text(body, "worker")
        if not worker:
            present = [each for each in self._store.workers() if each["present"]]
            if not present:
                raise HTTPException(503, "no worker is present: start one, or name one with 'worker'")
            worker = str(present[0]["instance"])
        fields = {key: value for key, value in body.items() if key not in ("prompt", "worker")}
        return _json(self._store.dispatch(prompt, worker, fields), 201)

    async def abort(self, request: Request) -> Response:
        return _json({"id": _id(request), "status": self._store.act(_id(request), "abort")})

    async def requeue(self, request: Request) -> Response:
        return _json({"id": _id(request), "status": self._store.act(_id(request), "requeue")})

    async def abort_all(self, request: Request) -> Response:
        return _json({"aborted": self._store.abort_all()})

    async def events(self, request: Request) -> Response:
        self._store.job(_id(request))
        return _json({"events": self._store.events(_id(request))})

    async def jobs(self, request: Request) -> Response:
        query = request.query_params
        limit, offset = _number(query, "limit"), _number(query, "offset")
        listed = self._store.jobs(
            worker=query.get("worker"),
            status=query.get("status"),
            limit=100 if limit is None else limit,
            offset=offset or 0,
        )
        return _json({"jobs": listed})

    async def workers(self, request: Request) -> Response:
        return _json({"workers": self._store.workers()})

    async def artifacts(self, request: Request) -> Response:
        return _json({"artifacts": self._store.artifacts(_number(request.query_params, "job_id"))})

    async def reviews(self, request: Request) -> Response:
        return _json({"reviews": self._store.reviews()})

    async def decide(self, request: Request) -> Response:
        decisions = {"approve": "approved", "reject": "rejected"}
        decision = decisions.get(request.path_params["decision"])
        if decision is None:
            raise HTTPException(404, "Not Found")
        return _json(self._store.decide(_id(request), decision))

    async def health(self, request: Request) -> Response:
        return _json({"ok": True})


def _json(content: Any, status: int = 200) -> Response:
    return JSONResponse(content, status)


async def _body(request: Request) -> Body:
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise BadRequest("the body is not JSON") from error
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    return body


def _clean(text: str) -> str:
    """The text as SQLite and UTF-8 can keep it: lone surrogates, which JSON allows, are replaced."""
    return text.encode("utf-8", errors="replace").decode()


def _required_text(body: Body, name: str, *, empty: bool = False) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not (value or empty):
        raise BadRequest(f"{name} must be a {'' if empty else 'non-empty '}string")
    return _clean(value)


def _optional_text(body: Body, name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise BadRequest(f"{name} must be a string or null")
    return None if value is None else _clean(value)


def _number(texts: Mapping[str, str], name: str) -> int | None:
    text = texts.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise BadRequest(f"{name} must be a whole number")
    return int(text)


def _id(request: Request) -> int:
    text = request.path_params["id"]
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise NotFound(f"there is no job {text[:40]!r}")
    return int(text)


def _time(text: str) -> dt.datetime:
    try:
        time = dt.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise BadRequest("expires_at must be an ISO 8601 time") from None
    return time if time.tzinfo else time.replace(tzinfo=dt.timezone.utc)


def _header_safe(text: str) -> str:
    return text if text.isascii() and text.isprintable() else "application/octet-stream"
