"""An HTTP server based on the standard library, for the servers and proxies of tests."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

Server = TypeVar("Server", bound="HttpServer")


@dataclass(frozen=True)
class Request:
    """A request.

    Attributes:
        method: in capitals.
        target: the path with the query.
        headers: the headers.
        body: the body as it came.
    """

    method: str
    target: str
    headers: Message
    body: bytes

    @property
    def path(self) -> str:
        """The path without the query."""
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        """The first value of each parameter of the query."""
        return {name: values[0] for name, values in parse_qs(urlsplit(self.target).query).items()}


@dataclass(frozen=True)
class Reply:
    """A response.

    Args:
        status: the status.
        body: bytes or text as they are; anything else as JSON.
        content_type: the media type.
        headers: further headers, whose values may be any bytes.
        after: whether the server handles the request first; this reply then replaces its own.
        raw: the whole response, head and body, instead of the other fields. The connection is closed after it.
    """

    status: int = 200
    body: Any = b""
    content_type: str = "application/json"
    headers: Sequence[tuple[str, bytes]] = ()
    after: bool = False
    raw: Iterable[bytes] | None = None

    @property
    def content(self) -> bytes:
        """The body as bytes."""
        if isinstance(self.body, bytes):
            return self.body
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()


class HttpServer:
    """A context manager that runs the server on a free port of 127.0.0.1. Each request has its own thread.

    Attributes:
        url: its address.
    """

    def __init__(self) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                reply = server.answer(Request(self.command, self.path, self.headers, body))
                if reply.raw is not None:
                    self.close_connection = True
                    for part in reply.raw:
                        self.wfile.write(part)
                    return
                content = reply.content
                self.send_response(reply.status)
                self.send_header("content-type", reply.content_type)
                self.send_header("content-length", str(len(content)))
                for name, value in reply.headers:
                    self.send_header(name, value.decode("latin-1"))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = answer  # noqa: N815 - their names come from the standard library

            def log_message(self, format: str, *args: object) -> None:
                """Log nothing."""

        class Threads(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *args: object) -> None:
                """Ignore clients that close their connection."""

        self._server = Threads(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, request: Request) -> Reply:
        """The response to a request."""
        raise NotImplementedError

    def __enter__(self: Server) -> Server:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
