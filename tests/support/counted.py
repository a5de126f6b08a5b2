"""A sandbox that records its requests."""

from __future__ import annotations

import time
from collections import Counter
from itertools import pairwise

from starlette.types import ASGIApp, Receive, Scope, Send

from mr_celery.sandbox import Sandbox, server


class CountedSandbox(Sandbox):
    """Records method, path (with numbers as ``N``) and arrival time of every request.

    Args:
        db: the SQLite file for the state; by default in memory.

    Attributes:
        requests: pairs of arrival time and kind.
        most_at_once: the maximum number of concurrent requests.
    """

    def __init__(self, db: str | None = None) -> None:
        super().__init__(db=db)
        self.requests: list[tuple[float, str]] = []
        self.most_at_once = 0
        self._under_way = 0

    def start(self) -> Sandbox:
        plain = server.create_app
        server.create_app = lambda *args, **named: self._counting(plain(*args, **named))  # type: ignore[assignment]
        try:
            return super().start()
        finally:
            server.create_app = plain

    def _counting(self, app: ASGIApp) -> ASGIApp:
        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                path = "/".join("N" if part.isdigit() else part for part in scope["path"].split("/"))
                self.requests.append((time.monotonic(), f"{scope['method']} {path}"))
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
            try:
                await app(scope, receive, send)
            finally:
                self._under_way -= 1

        return counted

    def counts(self) -> Counter[str]:
        """Number of requests by kind."""
        return Counter(kind for _, kind in self.requests)

    def gaps(self, kind: str) -> list[float]:
        """Seconds between requests of one kind."""
        times = [at for at, each in self.requests if each == kind]
        return [later - earlier for earlier, later in pairwise(times)]
