"""Limits the size of a request's body, before the application reads it."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOGIN_BYTES = 16 * 1024
PAGE_BYTES = 8 * 1024 * 1024
JSON_BYTES = 64 * 1024 * 1024
UPLOAD_BYTES = 5 * 1024 * 1024 * 1024


class BodyLimit:
    """Middleware that refuses bodies that are too large with 413. It must be the outermost layer.

    Args:
        app: the application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = limit_of(scope["path"])
        refusal = HTTPException(413, f"the body is larger than {limit} bytes")
        announced = dict(scope["headers"]).get(b"content-length", b"")
        received = int(announced) if announced.isdigit() and len(announced) < 20 else 0

        async def limited() -> Message:
            # Raised where the application reads the body, so that it can refuse the request for other reasons first.
            nonlocal received
            if received <= limit:
                message = await receive()
                if not announced:
                    received += len(message.get("body", b""))
            if received > limit:
                raise refusal
            return message

        try:
            await self._app(scope, limited, send)
        except HTTPException as error:
            if error is not refusal:
                raise
            await JSONResponse({"error": error.detail}, error.status_code)(scope, receive, send)


def limit_of(path: str) -> int:
    """The maximum size, in bytes, of a body that a path accepts."""
    if path == "/login":
        return LOGIN_BYTES
    if path.startswith("/ui/"):
        return PAGE_BYTES
    return UPLOAD_BYTES if path == "/artifacts/upload" else JSON_BYTES
