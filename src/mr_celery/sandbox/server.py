"""Running the sandbox: as a command, or in a thread of a test."""

from __future__ import annotations

import secrets
import signal
import socket
import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import uvicorn

from ..errors import MrCeleryError
from .app import create_app
from .chaos import Chaos
from .page import Logins
from .store import Store

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - not listened on, but where a browser finds them
_STOP_SECONDS = 10.0


class _Server(uvicorn.Server):
    """uvicorn, which says when it has started. It leaves the logging of the process as it is."""

    def __init__(
        self,
        store: Store,
        token: str,
        chaos: Chaos,
        logins: Logins,
        *,
        tokens: Mapping[str, str] | None = None,
        hosts: Collection[str] = (),
    ) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(store, token, chaos, tokens=tokens, logins=logins, hosts=hosts),
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=3,
            )
        )
        self.up = threading.Event()
        self._chaos = chaos
        self._changes = store.changes

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._chaos.stopping = False
        await super().startup(sockets)
        self.up.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._chaos.stopping = True
        self._changes.close()
        await super().shutdown(sockets)


def run(
    host: str = "127.0.0.1",
    port: int = 8765,
    token: str | None = None,
    db: str | None = None,
    chaos: str | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        host: the address to listen on.
        port: the port; 0: a free one.
        token: the worker token; default: a new one, which is printed.
        db: the SQLite file that keeps the state; default: memory.
        chaos: the JSON file that says which faults to answer with; default: none.

    Raises:
        MrCeleryError: the port is taken, or a file cannot be used.
    """
    faults = Chaos.from_file(chaos) if chaos else Chaos()
    secret = token or secrets.token_urlsafe(24)
    logins = Logins()
    with _listen(host, port) as listening, _store(db) as store:
        server = _Server(store, secret, faults, logins, hosts=_names(host))
        with _ended_by_signals(server):
            address = _address(host, listening)
            print(f"ModelReins sandbox at {address}, state in {db or 'memory'}", flush=True)  # noqa: T201 - a command
            if token is None:
                print(f"MODELREINS_URL={address} MODELREINS_TOKEN={secret}", flush=True)  # noqa: T201
            if chaos:
                print(f"faults from {chaos}: rules {len(faults.rules)}, seed {faults.seed}", flush=True)  # noqa: T201
            print(f"the page, at your first visit: {logins.link(_reachable(host, listening))}", flush=True)  # noqa: T201
            if host not in _LOOPBACK:
                warning = f"warning: listening on {host}: whoever reaches it and has the token can do everything"
                print(warning, file=sys.stderr, flush=True)  # noqa: T201
            server.run(sockets=[listening])


class Sandbox:
    """A sandbox in a thread, on 127.0.0.1, for as long as a ``with`` block lasts.

    Args:
        token: the worker token; default: a new one.
        db: the SQLite file that keeps the state; default: memory.
        port: the port; 0: a free one.
        chaos: the faults to answer with; default: none, until some are set.
        tokens: further worker tokens by worker name: each is good for that name only.

    Attributes:
        token: the worker token.
        chaos: the faults: ``sandbox.chaos.set([Rule("drop", rate=0.1)])``, ``sandbox.chaos.clear()``.
        url: the base URL, once it was started.
        store: its state, while it runs.

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
    ) -> None:
        self.token = token or secrets.token_urlsafe(24)
        self.chaos = chaos or Chaos()
        self.port = port
        self._db = db
        self._tokens = tokens
        self._logins = Logins()
        self._store: Store | None = None
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def login_link(self) -> str:
        """A new address of the page that logs in whoever opens it first."""
        return self._logins.link(self.url)

    @property
    def store(self) -> Store:
        if self._store is None:
            raise MrCeleryError("the sandbox is not running: use it in a with block, or call start() first")
        return self._store

    def start(self) -> Sandbox:
        """Serve, and return once requests are answered. After :meth:`stop`, it has the same port again.

        Raises:
            MrCeleryError: it runs already, the port is taken, or the file cannot be used.
        """
        if self._thread is not None:
            raise MrCeleryError("the sandbox runs already")
        listening = _listen("127.0.0.1", self.port)
        try:
            self._store = Store(self._db)
        except MrCeleryError:
            listening.close()
            raise
        self.port = int(listening.getsockname()[1])
        self._server = _Server(self._store, self.token, self.chaos, self._logins, tokens=self._tokens)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listening]}, name="modelreins-sandbox", daemon=True
        )
        self._thread.start()
        if not self._server.up.wait(_STOP_SECONDS):
            self.stop()
            raise MrCeleryError("the sandbox has not come up: the log says why")
        return self

    def stop(self) -> None:
        """Finish what is being answered, and close the store. Without effect if it does not run.

        Raises:
            MrCeleryError: a request does not end.
        """
        thread, self._thread = self._thread, None
        if thread is None or self._server is None or self._store is None:
            return
        self._server.should_exit = True
        thread.join(_STOP_SECONDS)
        self._store.close()
        self._store = None
        if thread.is_alive():
            raise MrCeleryError(f"the sandbox has not stopped within {_STOP_SECONDS:g} s")

    def __enter__(self) -> Sandbox:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def dispatch(self, prompt: str, *, worker: str | None = None, **fields: Any) -> dict[str, Any]:
        """A new pending job.

        Args:
            prompt: the prompt.
            worker: the worker's name; default: the one that reported presence last.
            fields: further fields of the job.
        """
        return self.store.dispatch(prompt, worker, fields)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise MrCeleryError(f"the sandbox cannot listen on {host}:{port}: {error.strerror or error}") from error
    # Only where a socket says that it is TCP does asyncio set TCP_NODELAY: else each answer is 40 ms late.
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=listening.detach())


def _address(host: str, listening: socket.socket) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"


def _names(host: str) -> set[str]:
    """The names under which a browser may ask for the page, if others than this machine may reach it."""
    return set() if host in _LOOPBACK else {host, socket.gethostname()}


def _reachable(host: str, listening: socket.socket) -> str:
    """The address for a browser on this machine."""
    if host in _EVERYWHERE:
        return f"http://{_EVERYWHERE[host]}:{listening.getsockname()[1]}"
    return _address(host, listening)


@contextmanager
def _store(db: str | None) -> Iterator[Store]:
    """The state, until the block ends."""
    store = Store(db)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def _ended_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """Have SIGINT and SIGTERM end a server also before it listens to them itself.

    They only tell it so: an exception could come in the middle of anything. uvicorn raises them once more at its end.
    """
    if threading.current_thread() is not threading.main_thread():  # no signal arrives here
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
