"""Runs ``mr-celery up``: bridge, worker and, if needed, Redis on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from celery.utils.nodenames import default_nodename

from ..bridge.routes import Routes
from ..clients import Clients
from ..errors import LedgerUnavailable, SettingsError
from ..handlers import load_registry
from ..settings import Settings, load, require
from .browser import logged_in
from .processes import Processes, Program
from .redis import EmbeddedRedis
from .running import Record, Running, data_folder, relevant

SETTLE_SECONDS = 5.0
"""Maximum time between a worker's announcement and its own line that it is ready, in seconds."""


def programs(app_name: str, worker_options: Sequence[str]) -> list[Program]:
    """The commands of a worker and a bridge."""
    celery = ["-m", "celery", "-A", app_name]
    return [
        Program("worker", [*celery, "worker", "--loglevel", "INFO", *worker_options]),
        Program("bridge", [*celery, "modelreins", "bridge"]),
    ]


def knows_its_broker(app: Any) -> bool:
    """Whether the application or the environment configures a broker."""
    return bool(app.conf.broker_url or app.conf.broker_write_url)


@contextlib.contextmanager
def redis_for(
    app: Any, folder: Path, say: Callable[[str, str], None], *, embedded: bool, own_ledger: bool = False
) -> Iterator[dict[str, str]]:
    """Run an embedded Redis inside the block, unless a broker is configured. Yields variables with the addresses.

    Args:
        app: the Celery application.
        folder: the data folder of an embedded Redis.
        say: called with a name and a line of output.
        embedded: use an embedded Redis even if a broker is configured.
        own_ledger: use the embedded Redis for the ledger even if one is configured.

    Raises:
        MrCeleryError: no Redis server program was found.
        SettingsError: a broker is configured, but no Redis for the ledger.
    """
    if not embedded and knows_its_broker(app):
        require(load(app.conf), "ledger_url")
        yield {}
        return
    with EmbeddedRedis(folder / "redis") as server:
        say("up", f"embedded Redis in {folder / 'redis'}")
        if server.warning:
            say("up", server.warning)
        ledger_url = (not own_ledger and os.environ.get("MODELREINS_LEDGER_URL")) or server.ledger_url()
        yield {"CELERY_BROKER_URL": server.broker_url(), "MODELREINS_LEDGER_URL": ledger_url}


def queues_of(app: Any, settings: Settings) -> list[str]:
    """The queues that a worker has to consume to run all handlers; empty if Celery's defaults are enough.

    Raises:
        RoutingError: the declarations contradict each other.
    """
    registry = load_registry(app)
    routes = Routes(app, registry, settings.max_attempts)
    usual = list(app.amqp.queues.consume_from)
    routed = {
        queue
        for handler in registry.handlers
        for destination in routes.destinations(handler)
        for queue in destination.queues
    }
    further = sorted(routed.difference(usual))
    return [*usual, *further] if further else []


@dataclass(frozen=True)
class Ready:
    """A complete installation that has been started.

    Args:
        running: the process and its variables.
        tokens: the variables with tokens.
        worker_names: the worker names that jobs are claimed for.
        login_link: a link that logs in to the sandbox's page once; empty without a sandbox.
    """

    running: Running
    tokens: Collection[str]
    worker_names: Sequence[str]
    login_link: str = ""


def up(
    app: Any,
    app_name: str,
    *,
    folder: Path,
    worker_options: Sequence[str],
    embedded: bool,
    sandbox: bool = False,
    environment: Mapping[str, str],
    say: Callable[[str, str], None],
    report_ready: Callable[[Ready], None],
) -> bool:
    """Run until SIGINT, SIGTERM or SIGHUP. Returns ``False`` if a process ended right after its start.

    Args:
        app: the Celery application.
        app_name: its name as for ``celery -A``.
        folder: the data folder of an embedded Redis.
        worker_options: further options for the worker.
        embedded: use an embedded Redis even if a broker is configured.
        sandbox: also run a sandbox, and connect the bridge to it. It gets its own Redis, because one ledger must not
            mix its jobs with those of a real server.
        environment: the environment of the processes.
        say: called with a name and a line of output.
        report_ready: called once, when bridge and worker are online and the server has accepted the presence.

    Raises:
        SettingsError: a setting is invalid, or the token is missing.
        RoutingError: the declarations of handlers contradict each other.
        MrCeleryError: no Redis could be started, or the folder is in use or not private.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # SIGHUP: the terminal was closed
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, lambda *_: stop.set())
    umask = os.umask(0o077)  # everything in the data folder is private; the programs get the user's own mask
    with contextlib.ExitStack() as stack:
        stack.callback(os.umask, umask)
        record = stack.enter_context(Record(stack.enter_context(data_folder(folder))).held())
        login_link = ""
        data = folder
        if sandbox:
            from .sandbox import sandbox_for  # imported late: it needs the extra `sandbox`

            data = folder / "sandbox"
            environment, server = stack.enter_context(sandbox_for(app, data, environment, say))
            stack.enter_context(logged_in(server.login_link, data))
            login_link = server.login_link()
        for settings in load(app.conf, environment=environment).each():
            try:
                require(settings, "token")
            except SettingsError as error:
                raise SettingsError(f"{error}; or add --sandbox, for a local server") from None
        addresses = stack.enter_context(redis_for(app, data, say, embedded=embedded or sandbox, own_ledger=sandbox))
        environment = {**environment, **addresses}
        settings = load(app.conf, environment=environment)
        if "--queues" not in worker_options and (queues := queues_of(app, settings)):
            worker_options = [*worker_options, "--queues", ",".join(queues)]
        tokens = {"MODELREINS_TOKEN", *(each.token_env for each in settings.workers if each.token_env)}
        running = _running(app, app_name, settings, relevant(environment, tokens))
        record.write(running)
        ready = Ready(running, tokens, [each.name for each in settings.each()], login_link)
        starting = _Starting(settings, say, lambda: report_ready(ready))
        if replace(settings, show_output=True).logs_output:
            environment = {"MODELREINS_SHOW_OUTPUT": "1", **environment}
        processes = Processes(programs(app_name, worker_options), environment, starting.say, umask=umask)
        try:
            processes.start()
            threading.Thread(target=starting.wait, args=(processes, stop), daemon=True).start()
            return processes.watch(stop)
        finally:
            stop.set()
            processes.stop()


def _running(app: Any, app_name: str, settings: Settings, given: Mapping[str, str]) -> Running:
    variables = {**given, "MODELREINS_URL": settings.url, "MODELREINS_LEDGER_URL": settings.ledger_url}
    if settings.token:
        variables["MODELREINS_TOKEN"] = settings.token
    return Running(app_name, str(app.main), os.getpid(), variables)


class _Starting:
    """Waits until the worker and the bridge are online, and the server has accepted the presence.

    Args:
        settings: the settings of all worker names.
        say: prints a line of output.
        report: called once when all are ready.
    """

    def __init__(self, settings: Settings, say: Callable[[str, str], None], report: Callable[[], None]) -> None:
        self._say = say
        self._report = report
        clients = Clients(settings)
        self._fleet, self._ledgers = clients.fleet(), clients.ledgers()
        self._hostname = default_nodename("")
        self._worker_said = threading.Event()

    def say(self, name: str, line: str) -> None:
        """Pass on a line of output."""
        self._say(name, line)
        if name == "worker" and f"{self._hostname} ready." in line:
            self._worker_said.set()

    def wait(self, processes: Processes, stop: threading.Event) -> None:
        """Wait, unless ``stop`` is set before, and report."""
        while not stop.wait(0.2):
            try:
                online = self._online(f":{processes.process_id('bridge')}")
            except LedgerUnavailable:
                continue  # the bridge reports it
            if online:
                self._worker_said.wait(SETTLE_SECONDS)
                self._report()
                return

    def _online(self, bridge: str) -> bool:
        return any(node.hostname == self._hostname for node in self._fleet.online()) and all(
            any(each.id.endswith(bridge) and each.presence_age is not None for each in ledger.bridges())
            for ledger in self._ledgers
        )
