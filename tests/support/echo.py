"""A proxy before a server that sometimes answers with an error page which repeats the whole request."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests

Echoes = Callable[[str, str], bool]
"""Whether a request (method, path) is answered by such a page, and not by the server."""


class Echo:
    """The proxy, on a free port of 127.0.0.1, for as long as a ``with`` block lasts.

    Args:
        server: the address of the server.
        echoes: which requests it spoils.
    """

    def __init__(self, server: str, echoes: Echoes) -> None:
        self.echoed: list[str] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                body = self.rfile.read(length)
                if echoes(self.command, self.path):
                    proxy.echoed.append(f"{self.command} {self.path}")
                    page = f"<h1>Bad gateway</h1>{self.headers}\n".encode() + body
                    self.reply(502, "text/html", page)
                    return
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                passed = requests.request(self.command, server + self.path, data=body, headers=headers, timeout=30)
                self.reply(passed.status_code, passed.headers.get("content-type", ""), passed.content)

            def reply(self, status: int, content_type: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("content-type", content_type)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = answer  # noqa: N815 - their names come from the standard library

            def log_message(self, format: str, *args: object) -> None:
                """It says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Echo:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
