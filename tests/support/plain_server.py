"""A ModelReins server that shares no code with the sandbox, and so none of its assumptions."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from .http_server import HttpServer, Reply, Request

OLD = "4.5.3"
"""A version without artifacts and reviews."""

NEW = "4.6.0"

Spoil = Callable[[Request], Reply | None]
"""The reply to a request in place of the server's own; ``None``: its own."""


def route_of(request: Request) -> str:
    """``presence``, ``claim``, ``close``, ``upload``, ``review``, ``job``, or the status of a list of jobs."""
    known = {"/presence": "presence", "/artifacts/upload": "upload", "/review": "review"}
    if request.path == "/my-jobs":
        return request.query["status"]
    of_job = re.fullmatch(r"/jobs/\d+(?:/(claim|close))?", request.path)
    return (of_job[1] or "job") if of_job else known.get(request.path, request.path)


class PlainServer(HttpServer):
    """The server. It has the attributes that :class:`~support.fleet.Fleet` needs.

    Args:
        version: the ModelReins version whose routes it implements.

    Attributes:
        jobs: the fields of each job, by id.
        spoil: returns a reply that replaces the server's own, or ``None``.
        extra: by status, further entries that its list begins with, as bytes.
        reports_single_jobs: whether a worker may request a single job.
        lists_ended_jobs: whether jobs that are over stay in the list of running jobs, with their own status.
        asked: the number of requests by route.
        closes: the number of close requests by job id.
        results: the status and the result of each close, by job id.
        artifacts: the names of the uploads, by job id.
        filed: the titles of the reviews, by job id.
    """

    token = "a token of the plain server"

    def __init__(self, version: str = NEW) -> None:
        super().__init__()
        self.version = version
        self.spoil: Spoil = lambda request: None
        self.jobs: dict[int, dict[str, Any]] = {}
        self.extra: dict[str, list[bytes]] = {}
        self.reports_single_jobs = False
        self.lists_ended_jobs = False
        self.asked: Counter[str] = Counter()
        self.closes: Counter[int] = Counter()
        self.results: dict[int, tuple[str, str]] = {}
        self.artifacts: dict[int, list[str]] = {}
        self.filed: dict[int, list[str]] = {}
        self._events: dict[int, list[str]] = {}
        self._times: list[tuple[float, str]] = []
        self._lock = threading.RLock()

    @property
    def store(self) -> PlainServer:
        """Itself."""
        return self

    def dispatch(self, prompt: str, worker: str, **fields: Any) -> dict[str, Any]:
        """Add a pending job, and return it."""
        with self._lock:
            job_id = len(self.jobs) + 1
            job = {"id": job_id, "prompt": prompt, "assigned_to": worker, "status": "pending", "result": None, **fields}
            self.jobs[job_id], self._events[job_id] = job, []
            return dict(job)

    def end(self, job_id: int, status: str) -> None:
        """End a job under any status, as an operator."""
        with self._lock:
            self.jobs[job_id]["status"] = status

    def job(self, job_id: int) -> dict[str, Any]:
        """A job's fields."""
        with self._lock:
            return dict(self.jobs[job_id])

    def events(self, job_id: int) -> list[dict[str, str]]:
        """The claims and closes of a job, including refused ones."""
        with self._lock:
            return [{"event": event} for event in self._events[job_id]]

    def gaps(self, route: str) -> list[float]:
        """Seconds between consecutive requests of a route."""
        with self._lock:
            times = [at for at, each in self._times if each == route]
        return [later - earlier for earlier, later in pairwise(times)]

    def answer(self, request: Request) -> Reply:
        route = route_of(request)
        with self._lock:
            self.asked[route] += 1
            self._times.append((time.monotonic(), route))
        reply = self.spoil(request)
        if reply is not None and not reply.after:
            return reply
        with self._lock:
            own = self._own(request, route)
        return own if reply is None else reply

    def _own(self, request: Request, route: str) -> Reply:
        if route == "presence":
            return Reply(body={})
        if request.path == "/my-jobs":
            return self._list(route)
        if self.version >= NEW and route == "upload":
            return self._upload(request.body)
        if self.version >= NEW and route == "review":
            about = json.loads(request.body)
            self.filed.setdefault(about["job_id"], []).append(about["title"])
            return Reply(body={"id": sum(map(len, self.filed.values())), "status": "pending", "mode": "review"})
        if route in ("claim", "close"):
            return self._change(int(request.path.split("/")[2]), route, json.loads(request.body))
        if route == "job" and self.reports_single_jobs:
            return Reply(body=self.jobs[int(request.path.split("/")[2])])
        return Reply(404, {"error": f"Cannot {request.method} {request.path}"})

    def _list(self, status: str) -> Reply:
        def is_listed(word: str) -> bool:
            over = word not in ("pending", "running")
            return word == status or (over and self.lists_ended_jobs and status == "running")

        listed = [json.dumps(job).encode() for job in self.jobs.values() if is_listed(job["status"])]
        return Reply(body=b'{"jobs": [' + b",".join([*self.extra.get(status, []), *listed]) + b"]}")

    def _upload(self, body: bytes) -> Reply:
        names = re.findall(rb'name="file"; filename="([^"]*)"', body)
        job_id = re.search(rb'name="job_id"\r\n(?:[^\r\n]+\r\n)*\r\n(\d+)', body)
        name = names[0].decode()
        self.artifacts.setdefault(int(job_id[1]) if job_id else 0, []).append(name)
        slug = f"slug{sum(map(len, self.artifacts.values()))}"
        return Reply(body={"success": True, "slug": slug, "url": f"/s/{slug}", "filename": name})

    def _change(self, job_id: int, route: str, about: dict[str, Any]) -> Reply:
        job, wanted = self.jobs.get(job_id), {"claim": "pending", "close": "running"}[route]
        self.closes[job_id] += route == "close"
        if job is None or job["status"] != wanted:
            self._events.get(job_id, []).append(f"{route} refused")
            return Reply(409, {"error": "not in that state"})
        if route == "claim":
            job["status"] = "running"
        else:
            job["status"], job["result"] = about["status"], about["result"]
            self.results[job_id] = (about["status"], about["result"])
        self._events[job_id].append("claim" if route == "claim" else f"close {about['status']}")
        return Reply(body={})
