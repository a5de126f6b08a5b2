"""A proxy that responds to some requests with an error page that repeats the whole request."""

from __future__ import annotations

from collections.abc import Callable

import requests

from .http_server import HttpServer, Reply, Request

Echoes = Callable[[str, str], bool]
"""Whether to answer a request (method, target) with an error page instead of forwarding it."""


class Echo(HttpServer):
    """The proxy.

    Args:
        server: the URL of the server.
        echoes: selects the requests that get an error page.

    Attributes:
        echoed: the method and target of each request that got an error page.
    """

    def __init__(self, server: str, echoes: Echoes) -> None:
        super().__init__()
        self.echoed: list[str] = []
        self._to = server
        self._echoes = echoes

    def answer(self, request: Request) -> Reply:
        if self._echoes(request.method, request.target):
            self.echoed.append(f"{request.method} {request.target}")
            return Reply(502, f"<h1>Bad gateway</h1>{request.headers}\n".encode() + request.body, "text/html")
        headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        passed = requests.request(
            request.method, self._to + request.target, data=request.body, headers=headers, timeout=30
        )
        return Reply(passed.status_code, passed.content, passed.headers.get("content-type", ""))
