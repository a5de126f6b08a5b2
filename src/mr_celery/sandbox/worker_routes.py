"""Routes of the worker protocol, from the official SDK 0.2.0 and the product documentation."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from . import downloads
from .access import caller_of, check_worker
from .approvals import RISK_TIERS
from .forms import read_form
from .registrations import Registrations
from .states import CLOSED, PENDING, RUNNING
from .store import Store
from .values import (
    MalformedError,
    NotFoundError,
    any_text,
    clean_text,
    digits,
    number,
    one_of,
    optional_integer,
    optional_text,
    parse_object,
    required_text,
    timestamp,
)

FORM_FIELDS = ("file", "job_id", "review_id", "filename", "expires_at")


def id_of(request: Request, what: str = "job") -> int:
    """The id of a job, or of something else, in the path.

    Raises:
        NotFoundError: the path has no valid id.
    """
    text = request.path_params["id"]
    number = digits(text)
    if number is None:
        raise NotFoundError(f"there is no {what} {text[:40]!r}")
    return number


class WorkerRoutes:
    """One method per route. Database queries are fast and block the event loop; uploads are copied in a thread."""

    def __init__(self, store: Store, registrations: Registrations) -> None:
        self._store = store
        self._registrations = registrations

    def routes(self) -> list[Route]:
        routes = [
            Route("/presence", self.report_presence, methods=["PUT"]),
            Route("/my-jobs", self.my_jobs),
            Route("/jobs/{id}/claim", self.claim, methods=["POST"]),
            Route("/jobs/{id}/close", self.close, methods=["POST"]),
            Route("/jobs/{id}", self.job),
            Route("/api/v1/workers/register", self.register, methods=["POST"]),
        ]
        if self._store.options.has_artifacts:
            routes += [
                Route("/artifacts/upload", self.upload, methods=["POST"]),
                Route("/s/{slug}", self.serve_artifact),
                Route("/review", self.submit_review, methods=["POST"]),
            ]
        return routes

    async def report_presence(self, request: Request) -> Response:
        body = parse_object(await request.body())
        names = ("status", "details", "tags", "provider", "worker_type")
        texts = {name: optional_text(body, name) for name in names}
        self._store.report({**texts, "instance": check_worker(request, required_text(body, "instance"))})
        return JSONResponse({"success": True})

    async def my_jobs(self, request: Request) -> Response:
        worker = check_worker(request, required_text(request.query_params, "worker"))
        statuses = (PENDING, RUNNING, *self._store.options.closed)
        status = one_of({"status": PENDING, **request.query_params}, "status", statuses)
        if status == PENDING and self._store.directory.is_paused(worker):
            return JSONResponse({"jobs": []})
        return JSONResponse({"jobs": self._store.inbox(worker, status)})

    async def claim(self, request: Request) -> Response:
        body = parse_object(await request.body())
        job_id = id_of(request)
        status = self._store.claim(job_id, check_worker(request, required_text(body, "worker")))
        return JSONResponse({"success": True, "id": job_id, "status": status})

    async def close(self, request: Request) -> Response:
        body = parse_object(await request.body())
        job_id = id_of(request)
        check_worker(request, self._store.job(job_id)["assigned_to"])
        status = self._store.close_job(job_id, any_text(body, "result"), one_of(body, "status", CLOSED))
        return JSONResponse({"success": True, "id": job_id, "status": status})

    async def job(self, request: Request) -> Response:
        job = self._store.job(id_of(request))
        check_worker(request, job["assigned_to"])
        return JSONResponse(job)

    async def upload(self, request: Request) -> Response:
        async with read_form(request, FORM_FIELDS) as form:
            kept = await self._keep(form)
        names = ("slug", "content_type", "size_bytes", "filename")
        return JSONResponse({"success": True, "url": f"/s/{kept['slug']}", **{name: kept[name] for name in names}})

    async def _keep(self, form: FormData) -> dict[str, str]:
        file = form.get("file")
        if not isinstance(file, UploadFile) or not file.filename:
            raise MalformedError("file must be a part with a filename")
        texts = {name: clean_text(value) for name, value in form.items() if isinstance(value, str)}
        if "expires_at" in texts:
            timestamp(texts["expires_at"], "expires_at")
        fields = {
            "content_type": clean_text(file.content_type or "application/octet-stream"),
            "filename": texts.get("filename") or clean_text(file.filename),
            "job_id": number(texts, "job_id"),
            "review_id": number(texts, "review_id"),
            "expires_at": texts.get("expires_at"),
        }
        return await run_in_threadpool(self._store.add_artifact, file.file, fields)

    async def serve_artifact(self, request: Request) -> Response:
        artifact = self._store.artifact(request.path_params["slug"])
        expires_at = artifact["expires_at"]
        if expires_at and timestamp(expires_at, "expires_at") <= self._store.clock():
            raise HTTPException(410, "this artifact has expired")
        if not downloads.usable_range(request.headers.get("range", ""), artifact["size_bytes"]):
            request.scope["headers"] = [each for each in request.scope["headers"] if each[0] != b"range"]
        content_type, filename = artifact["content_type"], artifact["filename"]
        return FileResponse(
            artifact["path"],
            media_type=downloads.media_type(content_type),
            headers=downloads.headers(content_type, filename),
        )

    async def submit_review(self, request: Request) -> Response:
        body = parse_object(await request.body())
        review = self._store.add_review(
            {
                "type": required_text(body, "type"),
                "title": required_text(body, "title"),
                "content": any_text(body, "content"),
                **{name: optional_text(body, name) for name in ("preview", "target", "created_by")},
                "job_id": optional_integer(body, "job_id"),
            }
        )
        return JSONResponse({"id": review["id"], "status": review["status"], "mode": "review"})

    async def register(self, request: Request) -> Response:
        if not caller_of(request).admin:
            raise HTTPException(403, "registering a worker needs the admin token")
        body = parse_object(await request.body())
        name = required_text(body, "name")
        description = optional_text(body, "description")
        capabilities = body.get("capabilities")
        if not isinstance(capabilities, (list, type(None))):
            raise MalformedError("capabilities must be a list")
        for capability in capabilities or ():
            if not isinstance(capability, dict):
                raise MalformedError("capabilities must be a list of objects with name and risk_tier")
            required_text(capability, "name")
            one_of(capability, "risk_tier", RISK_TIERS)
        view_url = f"{request.base_url}view/{self._registrations.add(clean_text(name), description, capabilities)}"
        seconds = self._store.options.link_seconds
        return JSONResponse({"success": True, "name": name, "view_url": view_url, "expires_in": seconds})
