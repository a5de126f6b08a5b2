"""Requests to an ASGI application inside the test."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote


@dataclass
class Answer:
    """The response to a request."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""


async def request(
    app: Any, path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None, body: bytes = b""
) -> Answer:
    """Send one request, and return the response.

    Args:
        app: the application.
        path: the path, with the query.
        method: the method.
        headers: the headers, besides that of the host.
        body: the body.
    """
    answer, (plain, _, query) = Answer(), path.partition("?")
    given = {"host": "bridge.test:9464", **(headers or {})}
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": method,
        "path": unquote(plain), "raw_path": plain.encode(), "query_string": query.encode(), "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
        "client": ("192.0.2.1", 5000), "server": ("bridge.test", 9464),
    }  # fmt: skip

    parts = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not parts:
            await asyncio.Event().wait()  # the client stays connected
        return parts.pop()

    async def send(message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            answer.text += message.get("body", b"").decode()

    await app(scope, receive, send)
    return answer
