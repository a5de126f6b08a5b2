"""``modelreins_bridge``: a real bridge and a real worker for the application under test, in the test's own process."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from ..bridge import Bridge, bridges_of
from ..celery_hooks import left_as_it_was, load_registry
from ..settings import load
from .application import must_take_jobs
from .broker import broker_inside
from .celery_inside import configured, current, worker
from .inside import redis_inside
from .jobs import SeenJob
from .server import LocalServer

CONCURRENCY = 4

QUICK = {
    "MODELREINS_POLL_INTERVAL": "0.1",
    "MODELREINS_HEARTBEAT_INTERVAL": "0.5",
    "MODELREINS_SHUTDOWN_TIMEOUT": "5",
}
"""Settings with which nothing that a test waits for takes long."""


class LocalBridge:
    """A bridge and a worker at work.

    Args:
        server: the server whose jobs they take.
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
            prompt: its prompt.
            worker: the worker name that it is assigned to; default: the test's own.
            seconds: for how long it is waited for; the test fails then, with what bridge and worker have logged.
            fields: the job's further fields.
        """
        __tracebackhide__ = True
        return self.server.wait(self.server.dispatch(prompt, worker=worker, **fields), seconds=seconds)


@contextmanager
def at_work(
    app: Any, server: LocalServer, environment: pytest.MonkeyPatch, *, ledger_url: str | None, folder: str
) -> Iterator[LocalBridge]:
    """A bridge and a worker while the block lasts. The application is left as it was.

    Args:
        app: the Celery application.
        server: the server.
        environment: where the settings are put; whoever made it takes them away.
        ledger_url: the Redis of the ledger; ``None``: one inside of this process.
        folder: where large artifacts wait, if the application has a spool.

    Raises:
        MrCeleryError: the settings or declarations are wrong, or something does not come up.
    """
    with ExitStack() as stack:
        url = ledger_url or stack.enter_context(redis_inside())
        _set(environment, app, server, url, folder)
        broker = stack.enter_context(broker_inside())
        stack.enter_context(current(app))
        stack.enter_context(configured(app, _configuration(broker)))
        stack.enter_context(left_as_it_was(app))
        must_take_jobs(app, load_registry(app))
        bridges = bridges_of(app, load(app.conf))
        server.worker = bridges[0].office.settings.name
        queues = {queue for bridge in bridges for queue in bridge.office.queues} | set(app.amqp.queues)
        hostname = f"test-{secrets.token_hex(4)}@localhost"
        stack.enter_context(worker(app, hostname=hostname, queues=sorted(queues), concurrency=CONCURRENCY))
        stack.enter_context(_running(bridges))
        yield LocalBridge(server, app)


def _set(environment: pytest.MonkeyPatch, app: Any, server: LocalServer, ledger_url: str, folder: str) -> None:
    """Put the settings of the test where both bridge and worker read them: they go before all others."""
    if app.conf.get("modelreins_workers") or os.environ.get("MODELREINS_WORKERS"):
        environment.delenv("MODELREINS_NAME", raising=False)  # the bridge is for all of them
    given = load(app.conf)
    for name, value in {**QUICK, "MODELREINS_LEDGER_URL": ledger_url}.items():
        environment.setenv(name, value)
    environment.delenv("MODELREINS_HTTP", raising=False)
    if given.spool_url:
        environment.setenv("MODELREINS_SPOOL_URL", folder)
    for identity in given.workers:
        if identity.token_env:
            environment.setenv(identity.token_env, server.token)
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
