"""Runs the sandbox as a command, or in a thread of a test."""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import uvicorn

from ..errors import MrCeleryError
from ..serving import Limits, Server, listen
from .app import create_app
from .chaos import Chaos
from .options import ServerOptions
from .page import Logins
from .store import Store

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - maps to addresses for browsers
_STOP_SECONDS = 10.0

_LONG_TOKEN = 20

_REQUEUE_INTERVAL = 1.0
"""Interval, in seconds, of checks for running jobs of workers that no longer report."""


LIMITS = Limits(connections=500)
"""Limits for the clients. A fleet keeps a few connections for each process open, and a page has one."""


class _Server(Server):
    """The HTTP server, with tasks that run beside it."""

    def __init__(
        self,
        store: Store,
        token: str,
        chaos: Chaos,
        logins: Logins,
        *,
        api_key: str | None = None,
        tokens: Mapping[str, str] | None = None,
        hosts: Collection[str] = (),
    ) -> None:
        app = create_app(store, token, chaos, api_key=api_key, tokens=tokens, logins=logins, hosts=hosts)
        super().__init__(app, LIMITS)
        self._chaos = chaos
        self._store = store
        self._requeueing: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._chaos.stopping = False
        self._requeueing = asyncio.create_task(self._requeue_lost())
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._chaos.stopping = True
        if self._requeueing is not None:
            self._requeueing.cancel()
        self._store.changes.close()
        await super().shutdown(sockets)

    async def _requeue_lost(self) -> None:
        while True:
            await asyncio.sleep(_REQUEUE_INTERVAL)
            self._store.requeue_lost()


def run(
    host: str = "127.0.0.1",
    port: int = 8765,
    token: str | None = None,
    db: str | None = None,
    chaos: str | None = None,
    *,
    api_key: str | None = None,
    options: ServerOptions | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        host: the address to listen on.
        port: the port; 0 for a free one.
        token: the worker token; by default a new one, which is printed.
        db: the SQLite file for the state; by default in memory.
        chaos: a JSON file with faults to inject; by default none.
        api_key: the API key of users. With one, a worker token may only do what workers do.
        options: options of the simulated server.

    Raises:
        MrCeleryError: the port is in use, or a file cannot be used.
    """
    faults = Chaos.from_file(chaos) if chaos else Chaos()
    secret = token or secrets.token_urlsafe(24)
    logins = Logins()
    with _listen(host, port) as listening, _store(db, options) as store:
        server = _Server(store, secret, faults, logins, api_key=api_key, hosts=_names(host))
        with _stopped_by_signals(server):
            address = _address(host, listening)
            print(f"ModelReins sandbox at {address}, state in {db or 'memory'}", flush=True)  # noqa: T201 - a command
            if token is None:
                print(f"export MODELREINS_URL={address} MODELREINS_TOKEN={secret}", flush=True)  # noqa: T201
            if api_key is not None:
                print("worker tokens may not dispatch, abort or list jobs: users need the API key", flush=True)  # noqa: T201
            if chaos:
                print(f"faults from {chaos}: rules {len(faults.rules)}, seed {faults.seed}", flush=True)  # noqa: T201
            print(f"log in to the page (this link works once): {logins.link(_reachable(host, listening))}", flush=True)  # noqa: T201
            if host not in _LOOPBACK:
                warning = f"warning: listening on {host}: anyone who can connect and has the token has full access"
                print(warning, file=sys.stderr, flush=True)  # noqa: T201
                if min(len(each) for each in (secret, api_key or secret)) < _LONG_TOKEN:
                    warning = (
                        f"warning: a token of fewer than {_LONG_TOKEN} characters can be guessed: use a generated one"
                    )
                    print(warning, file=sys.stderr, flush=True)  # noqa: T201
            server.run(sockets=[listening])


class Sandbox:
    """A context manager that runs a sandbox in a thread, on 127.0.0.1.

    Args:
        token: the worker token; by default a new one.
        db: the SQLite file for the state; by default in memory.
        port: the port; 0 for a free one.
        chaos: the faults to inject; by default none, until some are set.
        tokens: further worker tokens by worker name, each valid for that name only.
        api_key: the API key of users. With one, a worker token may only do what workers do.
        options: options of the simulated server.

    Attributes:
        token: the worker token.
        chaos: the faults: ``sandbox.chaos.set([Rule("drop", rate=0.1)])``, ``sandbox.chaos.clear()``.
        url: the base URL, after the start.
        store: the state, while the sandbox is running.

    Example::

        with Sandbox() as sandbox:
            job = sandbox.dispatch("say hello", worker="w")
            ...
            assert sandbox.store.job(job["id"])["status"] == "done"
    """

    def __init__(
        self,
        token: str | None = None,
        db: str | None = None,
        port: int = 0,
        *,
        chaos: Chaos | None = None,
        tokens: Mapping[str, str] | None = None,
        api_key: str | None = None,
        options: ServerOptions | None = None,
    ) -> None:
        self.token = token or secrets.token_urlsafe(24)
        self.chaos = chaos or Chaos()
        self.port = port
        self._db = db
        self._tokens = tokens
        self._api_key = api_key
        self._options = options
        self._logins = Logins()
        self._store: Store | None = None
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def login_link(self, when_used: Callable[[], object] | None = None) -> str:
        """Create a URL of the page that logs in its first visitor.

        Args:
            when_used: called when the visitor is logged in.
        """
        return self._logins.link(self.url, when_used)

    @property
    def store(self) -> Store:
        if self._store is None:
            raise MrCeleryError("the sandbox is not running: use it in a with block, or call start() first")
        return self._store

    def start(self) -> Sandbox:
        """Start the server, and return when it accepts requests. After :meth:`stop`, it uses the same port again.

        Raises:
            MrCeleryError: the sandbox is already running, the port is in use, or the file cannot be used.
        """
        if self._thread is not None:
            raise MrCeleryError("the sandbox is already running")
        listening = _listen("127.0.0.1", self.port)
        try:
            self._store = Store(self._db, options=self._options)
        except MrCeleryError:
            listening.close()
            raise
        self.port = int(listening.getsockname()[1])
        self._server = _Server(
            self._store, self.token, self.chaos, self._logins, api_key=self._api_key, tokens=self._tokens
        )
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listening]}, name="modelreins-sandbox", daemon=True
        )
        self._thread.start()
        if not self._server.up.wait(_STOP_SECONDS):
            self.stop()
            raise MrCeleryError("the sandbox did not start: see the log for the reason")
        return self

    def stop(self) -> None:
        """Finish open requests, and close the store. Does nothing if the sandbox is not running.

        Raises:
            MrCeleryError: a request did not end in time.
        """
        thread, self._thread = self._thread, None
        if thread is None or self._server is None or self._store is None:
            return
        self._server.should_exit = True
        thread.join(_STOP_SECONDS)
        self._store.close()
        self._store = None
        if thread.is_alive():
            raise MrCeleryError(f"the sandbox did not stop within {_STOP_SECONDS:g} s")

    def __enter__(self) -> Sandbox:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def dispatch(self, prompt: str, *, worker: str | None = None, **fields: Any) -> dict[str, Any]:
        """Create a pending job.

        Args:
            prompt: the prompt.
            worker: the worker name; by default one that is eligible.
            fields: further fields of the job.
        """
        return self.store.dispatch(prompt, worker, fields)


def _listen(host: str, port: int) -> socket.socket:
    try:
        return listen(host, port)
    except OSError as error:
        raise MrCeleryError(f"the sandbox cannot listen on {host}:{port}: {error.strerror or error}") from error


def _address(host: str, listening: socket.socket) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"


def _names(host: str) -> set[str]:
    """Host names of the page, if it is reachable from other machines."""
    return set() if host in _LOOPBACK else {host, socket.gethostname()}


def _reachable(host: str, listening: socket.socket) -> str:
    """The URL for a browser on this machine."""
    if host in _EVERYWHERE:
        return f"http://{_EVERYWHERE[host]}:{listening.getsockname()[1]}"
    return _address(host, listening)


@contextmanager
def _store(db: str | None, options: ServerOptions | None) -> Iterator[Store]:
    """Open the state for the block."""
    store = Store(db, options=options)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def _stopped_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """Stop a server on SIGINT and SIGTERM even before it installs its own handlers.

    The handlers only set a flag, since an exception could interrupt any code. uvicorn raises the signal again when it
    has stopped.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
        yield
        return

    def end(*_: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
