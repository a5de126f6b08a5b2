"""A ModelReins server that costs next to nothing, so that the machine's time goes to what is measured.

    python benchmarks/server.py PORT

It keeps the states of the worker protocol in memory, checks no token, and can be as slow as it is told to. Beside the
protocol it has::

    POST /bench/dispatch {"count": 3, "job": {"prompt": "x"}}   new jobs, pending unless they say "status": "running";
                                                                a prompt "now" becomes the time
    POST /bench/slow     {"seconds": 0.05}                      every answer of the protocol comes that much later
    GET  /bench/counts                                          jobs by status, requests by route, bytes uploaded
    GET  /bench/results                                         the last outputs of closed jobs, where they have one
    GET  /bench/times                                           the last claims and closes as [job, time], the uploads
                                                                as [bytes, begun, ended], and when the inbox was
                                                                looked into; seconds since 1970
    POST /bench/reset                                           no jobs, no counts
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
"""How many results and times are kept."""

HEAD = b"HTTP/1.1 %d OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class Jobs:
    """The jobs, each as the bytes in which it is listed."""

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

    def listing(self, status: str) -> bytes:
        return b'{"jobs":[' + b",".join(self.listed.get(status, {}).values()) + b"]}"

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
    """What all connections share."""

    def __init__(self) -> None:
        self.jobs = Jobs()
        self.seconds = 0.0
        self.requests: Counter[str] = Counter()
        self.uploads: list[tuple[int, float, float]] = []
        self.looks: deque[float] = deque(maxlen=KEPT)

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
            status = parse_qs(query)["status"][0]
            self.requests["inbox" if status == "pending" else status] += 1
            if status == "pending":
                self.looks.append(time.time())
            return 200, self.jobs.listing(status)
        self.requests[parts[0]] += 1
        if parts[0] == "artifacts":
            slug = f"s{self.requests['artifacts']}"
            return 200, json.dumps({"success": True, "slug": slug, "url": f"/s/{slug}"}).encode()
        if parts[0] == "review":
            return 200, b'{"id": 1, "status": "pending", "mode": "review"}'
        if parts[0] == "presence":
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
            }
        if what == "reset":
            self.jobs.reset()
            self.requests.clear()
            self.uploads.clear()
            self.looks.clear()
        listed = {status: len(entries) for status, entries in self.jobs.listed.items()}
        return {
            **listed,
            **self.jobs.closed,
            "first_claim": self.jobs.first_claim,
            "requests": dict(self.requests),
            "uploaded": sum(size for size, _, _ in self.uploads),
        }


class Connection(asyncio.Protocol):
    """One connection: requests one after the other, whose uploads are counted and thrown away."""

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
