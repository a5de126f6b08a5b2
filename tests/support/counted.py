"""A sandbox that notes each request it gets."""

from __future__ import annotations

import time
from collections import Counter
from itertools import pairwise

from starlette.types import ASGIApp, Receive, Scope, Send

from mr_celery.sandbox import Sandbox, server


class CountedSandbox(Sandbox):
    """Notes method, path (with numbers as ``N``) and arrival time of every request."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[tuple[float, str]] = []

    def start(self) -> Sandbox:
        plain = server.create_app
        server.create_app = lambda *args: self._counting(plain(*args))  # type: ignore[assignment]
        try:
            return super().start()
        finally:
            server.create_app = plain

    def _counting(self, app: ASGIApp) -> ASGIApp:
        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                path = "/".join("N" if part.isdigit() else part for part in scope["path"].split("/"))
                self.requests.append((time.monotonic(), f"{scope['method']} {path}"))
            await app(scope, receive, send)

        return counted

    def counts(self) -> Counter[str]:
        """How many requests there were of each kind."""
        return Counter(kind for _, kind in self.requests)

    def gaps(self, kind: str) -> list[float]:
        """Seconds between requests of one kind."""
        times = [at for at, each in self.requests if each == kind]
        return [later - earlier for earlier, later in pairwise(times)]
