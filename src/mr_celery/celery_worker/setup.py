"""Setting up a Celery worker that takes jobs."""

from __future__ import annotations

import logging
import os
from typing import Any

from ..celery_compat import rebuild_tracer
from ..clients import Clients
from ..errors import LedgerUnavailable, RoutingError, SettingsError
from ..handlers import Registry, handlers_of
from ..settings import Settings, is_default, load
from ..telemetry.json_format import JsonLines
from ..telemetry.own_loggers import show_warnings, undo_show_warnings
from . import aborts, signals
from .broker_errors import BrokerErrors
from .leases import LeaseRenewer, RenewalSwitch
from .members import Members
from .redaction import redact_exceptions
from .runner import Runner
from .task_wrapper import install, keep_jobs_away
from .worker_jobs import WorkerJobs

logger = logging.getLogger("mr_celery.worker")

LEDGER_TIMEOUT = 2.0
"""Seconds until a ledger step on the worker's event loop times out. The runner has its own connections."""


HOLDER = "_MR_CELERY_HOLDER"
"""The environment variable in which a worker passes its id as a holder of leases to pool processes that it spawns."""


def set_up_worker(worker: Any) -> None:
    """Prepare a starting Celery worker for jobs.

    Wraps decorated tasks in the runner, and adds the worker steps that announce the worker and renew its leases. If
    signals and steps miss the end of a run, its lease expires, and the bridge's reaper recovers the job.

    Args:
        worker: the Celery worker, before its own set-up.

    Raises:
        SystemExit: a setting is invalid or needs a package that is not installed, two decorated tasks contradict each
            other, or the ledger has another version.
    """
    app = worker.app
    try:
        settings = load(app.conf)
        Clients(settings).spool()  # fails here, and not after the first handler has run
        Registry(handlers_of(app))
    except (SettingsError, RoutingError) as error:
        raise SystemExit(f"mr-celery: {error}") from None
    _show_warnings(settings, worker.loglevel, worker.logfile, worker.hostname)
    if settings.log_format == "json":
        worker.quiet = True  # its banner is not JSON
    aborts.register()
    signals.connect()
    if not settings.ledger_url:
        why = (
            "modelreins_ledger_url is not set, and neither the broker nor the result backend is a Redis. "
            "Set MODELREINS_LEDGER_URL to the Redis that the bridge uses."
        )
        logger.warning("This worker takes no ModelReins jobs: %s", why)
        keep_jobs_away(app, why)
        return
    if settings.output_warning:
        logger.warning("%s", settings.output_warning)
    clients = Clients(settings, ledger_timeout=LEDGER_TIMEOUT)
    _check_ledger_version(app, clients)
    jobs = WorkerJobs.begin(app, clients)
    _put_runner_around_handlers(app, settings, jobs, worker.hostname)
    os.environ[HOLDER] = jobs.holder
    for kind, step in (("worker", LeaseRenewer), ("consumer", RenewalSwitch), ("consumer", BrokerErrors)):
        app.steps[kind].add(step)
        jobs.changes.callback(app.steps[kind].discard, step)


def set_up_pool_process(app: Any, hostname: str | None) -> None:
    """Prepare a pool process that was spawned: the default on macOS, or ``worker_pool_start_method = "spawn"``.

    Args:
        app: the application in this process.
        hostname: the worker's node name.
    """
    if WorkerJobs.of(app) is not None or HOLDER not in os.environ:
        return  # forked, or the worker takes no jobs
    settings = load(app.conf)
    level, logfile = int(os.environ.get("CELERY_LOG_LEVEL") or 0), os.environ.get("CELERY_LOG_FILE") or None
    _show_warnings(settings, level, logfile, hostname or "")
    signals.connect()
    jobs = WorkerJobs.begin(app, Clients(settings), holder=os.environ[HOLDER])
    jobs.event_loop.pool_interrupts = True
    _put_runner_around_handlers(app, settings, jobs, hostname or "")
    for task in list(app.tasks.values()):
        rebuild_tracer(task, hostname)


def _show_warnings(settings: Settings, level: Any, logfile: Any, hostname: str) -> None:
    formatter = JsonLines() if settings.log_format == "json" else None
    show_warnings(level, logfile, hostname=hostname, formatter=formatter)


def _put_runner_around_handlers(app: Any, settings: Settings, jobs: WorkerJobs, hostname: str) -> None:
    clients = Clients(settings)
    limits: dict[str, Any] = {"hard_limit": lambda: jobs.hard_limit, "event_loop": jobs.event_loop}
    runner = Runner(clients, hostname, jobs.holder, app=app, **limits)
    jobs.members = Members(clients, app, hostname, jobs.holder, **limits)
    jobs.changes.enter_context(install(app, runner, jobs.members))
    jobs.changes.enter_context(redact_exceptions(handler.task for handler in handlers_of(app)))


def undo_set_up(app: Any) -> None:
    """Undo :func:`set_up_worker`, for an application that outlives its worker."""
    undo_show_warnings()
    jobs = WorkerJobs.of(app)
    if jobs is not None:
        jobs.changes.close()


def _check_ledger_version(app: Any, clients: Clients) -> None:
    """Refuse a ledger of another version. An unreachable one is not checked, and the lease renewer logs the outage."""
    try:
        derived = is_default("ledger_prefix", app.conf, flags={})
        clients.ledger(clients.settings.name).check_version(prefix_is_derived=derived)
    except SettingsError as error:
        raise SystemExit(f"mr-celery: {error}") from None
    except LedgerUnavailable:
        pass
