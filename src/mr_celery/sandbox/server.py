"""Running the sandbox: as a command, or in a thread of a test."""

from __future__ import annotations

import secrets
import socket
import sys
import threading
from typing import Any

import uvicorn

from .app import create_app
from .store import Store

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _config(store: Store, token: str, **options: Any) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(store, token), access_log=False, log_level="warning", timeout_graceful_shutdown=3, **options
    )


def run(host: str = "127.0.0.1", port: int = 8765, token: str | None = None, db: str | None = None) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        host: the address to listen on.
        port: the port; 0: a free one.
        token: the worker token; default: a new one, which is printed.
        db: the SQLite file that keeps the state; default: memory.
    """
    given = token
    token = token or secrets.token_urlsafe(24)
    listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
    print(f"ModelReins sandbox at {address}, state in {db or 'memory'}", flush=True)  # noqa: T201 - a command
    if given is None:
        print(f"MODELREINS_URL={address} MODELREINS_TOKEN={token}", flush=True)  # noqa: T201
    if host not in LOOPBACK:
        warning = f"warning: it listens on {host}: who reaches it and has the token can do everything"
        print(warning, file=sys.stderr, flush=True)  # noqa: T201
    store = Store(db)
    try:
        uvicorn.Server(_config(store, token)).run(sockets=[listening])
    except KeyboardInterrupt:
        pass  # uvicorn has shut down, and raises the signal once more
    finally:
        store.close()


class Sandbox:
    """A sandbox in a thread, on a free port of 127.0.0.1, for as long as a ``with`` block lasts.

    Args:
        token: the worker token; default: a new one.
        db: the SQLite file; default: memory.

    Example::

        with Sandbox() as sandbox:
            job = sandbox.dispatch("say hello", worker="w")
            ...
            assert sandbox.store.job(job["id"])["status"] == "done"
    """

    def __init__(self, token: str | None = None, db: str | None = None, port: int = 0) -> None:
        self.token = token or secrets.token_urlsafe(24)
        self.store = Store(db)
        self._listening = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._server = uvicorn.Server(_config(self.store, self.token))
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listening]}, name="modelreins-sandbox", daemon=True
        )

    def start(self) -> Sandbox:
        """Start to serve: the socket listens already, so that a request waits until it is answered."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop to serve, and close the store."""
        self._server.should_exit = True
        self._thread.join(10)
        self._listening.close()
        self.store.close()

    def __enter__(self) -> Sandbox:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def dispatch(self, prompt: str, *, worker: str, **fields: Any) -> dict[str, Any]:
        """A new pending job for ``worker``, with further fields."""
        return self.store.dispatch(prompt, worker, fields)
