"""``/metrics``, ``/health/live`` and ``/health/ready``, answered by a thread of the bridge's process."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ..bridge import Bridge
from ..errors import SettingsError

logger = logging.getLogger("mr_celery.monitoring")

REQUEST_SECONDS = 10.0
"""Seconds that a client has for its request."""


class Web:
    """An HTTP server for the bridges of this process.

    Args:
        address: ``host:port``.
        bridges: the bridges.

    Raises:
        SettingsError: the extra ``metrics`` is not installed, or the address cannot be listened on.
    """

    def __init__(self, address: str, bridges: Sequence[Bridge]) -> None:
        try:
            from .collector import exposition
        except ImportError:
            raise SettingsError(
                'modelreins_http: /metrics needs a package that is not installed: pip install "mr-celery[metrics]"'
            ) from None
        host, _, port = address.rpartition(":")
        handler = type("Handler", (_Handler,), {"bridges": bridges, "exposition": staticmethod(exposition(bridges))})
        server = type("Server", (ThreadingHTTPServer,), {"address_family": _family(host), "daemon_threads": True})
        try:
            self._server: ThreadingHTTPServer = server((host.strip("[]"), int(port)), handler)
        except OSError as error:
            raise SettingsError(
                f"modelreins_http: cannot listen on {address}: {error.strerror or error}. Choose another port, or stop "
                "what has it"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="modelreins-http", daemon=True)

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()
        host, port = self._server.server_address[:2]
        logger.info("metrics and health at http://%s:%d", host if isinstance(host, str) else host.decode(), port)

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class _Handler(BaseHTTPRequestHandler):
    """One request. The probes ask nobody: they are answered from what the process knows."""

    bridges: Sequence[Bridge] = ()
    timeout = REQUEST_SECONDS
    server_version = "mr-celery"
    sys_version = ""

    @staticmethod
    def exposition() -> tuple[bytes, str]:
        raise NotImplementedError  # Web gives it

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            body, kind = self.exposition()
            self._answer(200, body, kind)
        elif path == "/health/live":
            self._health({bridge.office.settings.name: bridge.unwell() for bridge in self.bridges})
        elif path == "/health/ready":
            self._health({bridge.office.settings.name: bridge.unready() for bridge in self.bridges})
        else:
            self._answer(404, b"there is /metrics, /health/live and /health/ready\n", "text/plain")

    do_HEAD = do_GET  # noqa: N815 - as http.server names it

    def _health(self, troubles: Mapping[str, Mapping[str, str]]) -> None:
        found = {name: trouble for name, trouble in troubles.items() if trouble}
        body = json.dumps({"ok": not found, "trouble": found}).encode() + b"\n"
        self._answer(503 if found else 200, body, "application/json")

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug("%s %s", self.address_string(), format % args)
