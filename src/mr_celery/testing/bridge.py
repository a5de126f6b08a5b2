"""The fixture ``modelreins_bridge``: a real bridge and a real worker in the test's process."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from ..bridge import Bridge, bridges_of
from ..bridge.context import BridgeContext
from ..celery_compat import configured
from ..celery_worker.setup import undo_set_up
from ..clients import Clients
from ..completion import connected
from ..handlers import load_registry
from ..settings import load
from .application import must_take_jobs
from .celery_in_process import current, worker
from .jobs import SeenJob
from .memory_broker import memory_broker
from .memory_redis import memory_redis
from .server import LocalServer

CONCURRENCY = 4

QUICK = {
    "MODELREINS_POLL_INTERVAL": "0.1",
    "MODELREINS_HEARTBEAT_INTERVAL": "0.5",
    "MODELREINS_SHUTDOWN_TIMEOUT": "5",
}
"""Settings that keep tests fast."""


class LocalBridge:
    """A running bridge and worker.

    Args:
        server: the server that the bridge polls.
        app: the Celery application.

    Example::

        def test_the_whole_way(modelreins_bridge):
            job = modelreins_bridge.run("a cat", capability="image.generate")
            assert job.done
    """

    def __init__(self, server: LocalServer, app: Any) -> None:
        self.server = server
        self.app = app

    def __repr__(self) -> str:
        return f"<ModelReins bridge of {self.app.main!r} at {self.server.url}>"

    def run(self, prompt: str = "", *, worker: str | None = None, seconds: float = 10.0, **fields: Any) -> SeenJob:
        """Dispatch a job, and wait until it has ended.

        Args:
            prompt: the prompt.
            worker: the worker name that the job is assigned to; by default that of the test.
            seconds: timeout. The test then fails and shows the log of bridge and worker.
            fields: further fields of the job.
        """
        __tracebackhide__ = True
        return self.server.wait(self.server.dispatch(prompt, worker=worker, **fields), seconds=seconds)


@contextmanager
def running_bridge(
    app: Any, server: LocalServer, environment: pytest.MonkeyPatch, *, ledger_url: str | None, folder: str
) -> Iterator[LocalBridge]:
    """Run a bridge and a worker inside the block. Afterwards the application is unchanged.

    Args:
        app: the Celery application.
        server: the server.
        environment: sets environment variables. The caller undoes them.
        ledger_url: the Redis of the ledger; ``None`` for one in memory.
        folder: the spool's folder, if the application has a spool.

    Raises:
        MrCeleryError: the settings or declarations are invalid, or the bridge or worker does not start.
    """
    with ExitStack() as stack:
        url = ledger_url or stack.enter_context(memory_redis())
        _set(environment, app, server, url, folder)
        broker = stack.enter_context(memory_broker())
        stack.enter_context(current(app))
        stack.enter_context(configured(app, _configuration(broker)))
        stack.callback(undo_set_up, app)
        must_take_jobs(app, load_registry(app))
        bridges = bridges_of(app, load(app.conf))
        server.worker = bridges[0].context.settings.name
        queues = {queue for bridge in bridges for queue in _queues(bridge.context)} | set(app.amqp.queues)
        hostname = f"test-{secrets.token_hex(4)}@localhost"
        stack.enter_context(worker(app, hostname=hostname, queues=sorted(queues), concurrency=CONCURRENCY))
        stack.enter_context(_running(bridges))
        stack.enter_context(connected(app, Clients(load(app.conf))))  # for mr_celery.complete() in the test
        yield LocalBridge(server, app)


def _queues(context: BridgeContext) -> Iterator[str]:
    for handler in context.registry.handlers:
        for destination in context.routes.destinations(handler):
            yield from destination.queues


def _set(environment: pytest.MonkeyPatch, app: Any, server: LocalServer, ledger_url: str, folder: str) -> None:
    """Set the test's settings as environment variables, which override the application's configuration."""
    if app.conf.get("modelreins_workers") or os.environ.get("MODELREINS_WORKERS"):
        environment.delenv("MODELREINS_NAME", raising=False)  # run a bridge for every worker name
    given = load(app.conf)
    for name, value in {**QUICK, "MODELREINS_LEDGER_URL": ledger_url}.items():
        environment.setenv(name, value)
    environment.delenv("MODELREINS_HTTP", raising=False)
    if given.spool_url:
        environment.setenv("MODELREINS_SPOOL_URL", folder)
    for options in given.workers:
        if options.token_env:
            environment.setenv(options.token_env, server.token)
    for name in ("URL", "READ_URL", "WRITE_URL"):
        environment.delenv(f"CELERY_BROKER_{name}", raising=False)
    environment.delenv("CELERY_RESULT_BACKEND", raising=False)


def _configuration(broker: str) -> dict[str, Any]:
    return {
        "broker_url": broker,
        "broker_read_url": broker,
        "broker_write_url": broker,
        "broker_transport": None,
        "broker_transport_options": {},
        "broker_use_ssl": False,
        "result_backend": "cache+memory://",
        "task_always_eager": False,
        "worker_enable_remote_control": True,
    }


@contextmanager
def _running(bridges: list[Bridge]) -> Iterator[None]:
    with ExitStack() as stack:
        for bridge in bridges:
            bridge.start()
            stack.callback(bridge.stop)
        yield
