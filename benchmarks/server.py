"""A ModelReins server that uses very little CPU, so that it hardly affects measurements.

    python benchmarks/server.py PORT

It keeps jobs in memory, checks no token, and can delay its responses. In addition to the worker
protocol it has these routes::

    POST /bench/dispatch {"count": 3, "job": {"prompt": "x"}}   new jobs, pending unless they say "status": "running";
                                                                a prompt "now" becomes the time
    POST /bench/slow     {"seconds": 0.05}                      delay every response of the protocol
    GET  /bench/counts                                          jobs by status, requests by route, bytes uploaded
    GET  /bench/results                                         the last outputs of closed jobs, without empty ones
    GET  /bench/times                                           the last claims and closes as [job, time], the uploads
                                                                as [bytes, begun, ended], the times of inbox requests,
                                                                and the presences as [worker name, time]; in seconds
                                                                since 1970
    POST /bench/reset                                           delete all jobs and counts
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter, deque
from typing import Any
from urllib.parse import parse_qs

KEPT = 100_000
"""Number of results and times that are kept."""

HEAD = b"HTTP/1.1 %d OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class Jobs:
    """The jobs, each as serialized bytes."""

    def __init__(self) -> None:
        self.next_id = 1
        self.reset()

    def reset(self) -> None:
        self.listed: dict[str, dict[int, bytes]] = {"pending": {}, "running": {}}
        self.closed: Counter[str] = Counter()
        self.results: deque[str] = deque(maxlen=KEPT)
        self.claims: deque[tuple[int, float]] = deque(maxlen=KEPT)
        self.closes: deque[tuple[int, float]] = deque(maxlen=KEPT)
        self.first_claim: float | None = None

    def dispatch(self, count: int, job: dict[str, Any]) -> list[int]:
        ids = range(self.next_id, self.next_id + count)
        self.next_id += count
        for job_id in ids:
            fields = {"id": job_id, "assigned_to": "w", "status": "pending", **job}
            if fields.get("prompt") == "now":
                fields["prompt"] = repr(time.time())
            self.listed[fields["status"]][job_id] = json.dumps(fields).encode()
        return list(ids)

    def listing(self, status: str, worker: str) -> bytes:
        assigned = b'"assigned_to": ' + json.dumps(worker).encode()
        listed = (each for each in self.listed.get(status, {}).values() if assigned in each)
        return b'{"jobs":[' + b",".join(listed) + b"]}"

    def claim(self, job_id: int) -> bool:
        entry = self.listed["pending"].pop(job_id, None)
        if entry is None:
            return False
        now = time.time()
        self.first_claim = self.first_claim or now
        self.claims.append((job_id, now))
        self.listed["running"][job_id] = entry.replace(b'"pending"', b'"running"')
        return True

    def close(self, job_id: int, body: dict[str, Any]) -> bool:
        if self.listed["running"].pop(job_id, None) is None:
            return False
        self.closed[body["status"]] += 1
        self.closes.append((job_id, time.time()))
        if body["result"]:
            self.results.append(body["result"])
        return True


class Server:
    """The state that all connections share."""

    def __init__(self) -> None:
        self.jobs = Jobs()
        self.seconds = 0.0
        self.requests: Counter[str] = Counter()
        self.uploads: list[tuple[int, float, float]] = []
        self.looks: deque[float] = deque(maxlen=KEPT)
        self.presences: deque[tuple[str, float]] = deque(maxlen=KEPT)

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        path, _, query = target.partition("?")
        parts = path.strip("/").split("/")
        if parts[0] == "bench":
            return 200, json.dumps(self._bench(parts[1], body)).encode()
        if parts[0] == "jobs" and len(parts) == 3:
            self.requests[parts[2]] += 1
            job_id = int(parts[1])
            done = self.jobs.claim(job_id) if parts[2] == "claim" else self.jobs.close(job_id, json.loads(body))
            return (200, b'{"success": true}') if done else (409, b'{"error": "not in that state"}')
        if parts[0] == "my-jobs":
            named = parse_qs(query)
            status, worker = named["status"][0], named["worker"][0]
            self.requests["inbox" if status == "pending" else status] += 1
            if status == "pending":
                self.looks.append(time.time())
            return 200, self.jobs.listing(status, worker)
        self.requests[parts[0]] += 1
        if parts[0] == "artifacts":
            slug = f"s{self.requests['artifacts']}"
            return 200, json.dumps({"success": True, "slug": slug, "url": f"/s/{slug}"}).encode()
        if parts[0] == "review":
            return 200, b'{"id": 1, "status": "pending", "mode": "review"}'
        if parts[0] == "presence":
            self.presences.append((json.loads(body)["instance"], time.time()))
            return 200, b"{}"
        return 404, b'{"error": "no such route"}'

    def _bench(self, what: str, body: bytes) -> Any:
        told = json.loads(body or b"{}")
        if what == "dispatch":
            return self.jobs.dispatch(told["count"], told["job"])
        if what == "slow":
            self.seconds = told["seconds"]
        if what == "results":
            return list(self.jobs.results)
        if what == "times":
            return {
                "claims": list(self.jobs.claims),
                "closes": list(self.jobs.closes),
                "uploads": self.uploads,
                "looks": list(self.looks),
                "presences": list(self.presences),
            }
        if what == "reset":
            self.jobs.reset()
            self.requests.clear()
            self.uploads.clear()
            self.looks.clear()
            self.presences.clear()
        listed = {status: len(entries) for status, entries in self.jobs.listed.items()}
        return {
            **listed,
            **self.jobs.closed,
            "first_claim": self.jobs.first_claim,
            "requests": dict(self.requests),
            "uploaded": sum(size for size, _, _ in self.uploads),
        }


class Connection(asyncio.Protocol):
    """Handles the requests of one connection. Uploads are counted and discarded."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.buffer = b""
        self.head: tuple[str, str] | None = None
        self.left = 0
        self.body: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        while data:
            if self.head is None:
                self.buffer += data
                head, found, data = self.buffer.partition(b"\r\n\r\n")
                if not found:
                    return
                self.buffer = b""
                self._begin(head.decode("latin-1"))
            taken, data = data[: self.left], data[self.left :]
            self.left -= len(taken)
            if not self.upload:
                self.body.append(taken)
            if not self.left:
                self._end()

    def _begin(self, head: str) -> None:
        line, *headers = head.split("\r\n")
        method, target, _ = line.split(" ")
        self.head, self.body = (method, target), []
        self.upload = target.startswith("/artifacts")
        named = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in headers)}
        self.left = self.size = int(named.get("content-length", 0))
        self.begun_at = time.time()
        if "100-continue" in named.get("expect", ""):
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _end(self) -> None:
        assert self.head is not None
        (method, target), self.head = self.head, None
        if self.upload:
            self.server.uploads.append((self.size, self.begun_at, time.time()))
        status, body = self.server.answer(method, target, b"".join(self.body))
        answer = HEAD % (status, len(body)) + body
        if self.server.seconds and not target.startswith("/bench"):
            asyncio.get_running_loop().call_later(self.server.seconds, self.transport.write, answer)
        else:
            self.transport.write(answer)


async def serve(port: int) -> None:
    server = Server()
    listening = await asyncio.get_running_loop().create_server(
        lambda: Connection(server), "127.0.0.1", port, backlog=512
    )
    async with listening:
        await listening.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
