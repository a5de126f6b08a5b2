"""Renews the leases of a worker's jobs, and interrupts runs that have lost theirs."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Collection
from functools import partial
from inspect import iscoroutinefunction, unwrap
from typing import Any

from celery import bootsteps
from celery.concurrency.prefork import TaskPool as PreforkPool

from ..celery_compat import active_requests, is_handed_to_pool, pool_result
from ..handlers import handlers_of
from ..ledger import Node
from ..message import MemberMessage
from ..settings.redis_address import shown
from ..telemetry.logs import JobLog
from ..telemetry.outages import Outage
from ..version import __version__
from .event_loop import CANCEL_SECONDS, CHECK_SECONDS
from .worker_jobs import WorkerJobs, quietly

logger = logging.getLogger("mr_celery.worker")

STOPS = {"aborted": "aborted", "superseded": "given to another worker", "ended": "ended by an operator or a limit"}
"""The job states that stop a run, in words. A job that the ledger has lost is in none of them: its run continues."""


class LeaseRenewer(bootsteps.StartStopStep):
    """Worker step: announces the worker to the bridge, and renews its jobs' leases.

    It runs from the worker's start until the process ends, three times per lease. A run that has lost its job is
    interrupted if the pool can do that.

    Under prefork it runs on the worker's own timer, because forking beside threads is unsafe. The timer does not run
    while the consumer is not connected (:class:`RenewalSwitch`), nor during a shutdown until the pool has drained.
    During these times, and under all other pools, it runs on a thread of its own.
    """

    requires = ("celery.worker.components:Pool", "celery.worker.components:Timer")
    label = "ModelReins jobs"

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        parent.modelreins_lease_renewer = self
        jobs = WorkerJobs.of(parent.app)
        assert jobs is not None  # noqa: S101 - set_up_worker adds this step after it has made them
        self._jobs = jobs
        self._parent = parent
        self._entry: Any = None
        self._thread_stop: threading.Event | None = None
        self._draining = False
        self._interval = jobs.clients.settings.lease / 3
        self._outage = Outage(
            f"the ledger at {shown(jobs.clients.settings.ledger_url)}",
            "Running handlers continue, and no job starts",
            logger,
        )
        self._tasks: tuple[str, ...] = ()
        self._stopped: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lost_since: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()

    def start(self, parent: Any) -> None:
        """Announce the worker, and tick from now on."""
        self._jobs.hard_limit = getattr(parent, "time_limit", None)
        self._jobs.event_loop.soft_limit = getattr(parent, "soft_time_limit", None)
        self._tasks = tuple(handler.name for handler in handlers_of(parent.app))
        self.tick_on_thread()

    def stop(self, parent: Any) -> None:
        """Withdraw the worker. The leases of running jobs are renewed until the process ends."""
        if self._draining:
            return
        self._draining = True
        quietly("withdraw this worker", lambda: self._jobs.clients.fleet().withdraw(parent.hostname))
        self.tick_on_thread()

    terminate = stop

    def end(self) -> None:
        """Stop ticking, for a process that outlives its worker."""
        self._cancel_entry()
        self._stop_thread()

    def forget_dropped(self) -> None:
        """Forget the messages of an earlier connection that are not started. Celery has dropped them."""
        # The queue inside of other pools than prefork survives, and its requests still start.
        self._jobs.received.forget_waiting(lambda request: not self._is_prefork and is_handed_to_pool(request))

    def tick_on_timer(self) -> None:
        """Tick on the worker's timer if the pool is prefork."""
        if self._draining or not self._is_prefork:
            return
        self._stop_thread()
        # Up to Celery 5.6 the timer loses its entries when the consumer reconnects.
        self._cancel_entry()
        self._entry = self._parent.timer.call_repeatedly(self._interval, self.tick)

    def tick_on_thread(self) -> None:
        """Tick on a thread."""
        self._cancel_entry()
        if self._thread_stop is None:
            self._thread_stop = threading.Event()
            threading.Thread(
                target=self._tick_until, args=(self._thread_stop,), name="modelreins-lease-renewer", daemon=True
            ).start()

    def tick(self) -> None:
        """Renew the leases of this worker's jobs, and announce the worker while it accepts tasks."""
        if not self._draining:
            quietly("announce this worker", self._announce, outage=self._outage)
        quietly("renew leases", self.renew_all)

    def renew_all(self) -> None:
        """Renew the leases of all jobs of this worker."""
        for worker_name, runs in self._jobs.received.by_worker_name(self._runs).items():
            quietly("renew leases", partial(self._renew, worker_name, runs), outage=self._outage)
        for worker_name, members in self._jobs.received.members(self._runs).items():
            quietly("renew leases", partial(self._renew_members, worker_name, members), outage=self._outage)

    def check(self, task_ids: Collection[str]) -> None:
        """Renew the leases of these attempts, and of members of their workflows, if this worker has them.

        What has lost its job is interrupted.
        """
        for worker_name, runs in self._jobs.received.by_worker_name(self._runs).items():
            named = [run for run in runs if run[1] in task_ids]
            if named:
                quietly("renew leases", partial(self._renew, worker_name, named))
        for worker_name, members in self._jobs.received.members(self._runs).items():
            concerned = [each for each in members if each.key.task_id in task_ids]
            if concerned:
                quietly("renew leases", partial(self._renew_members, worker_name, concerned))

    @property
    def _is_prefork(self) -> bool:
        return issubclass(self._parent.pool_cls, PreforkPool)

    def _cancel_entry(self) -> None:
        if self._entry is not None:
            self._entry.cancel()
            self._entry = None

    def _stop_thread(self) -> None:
        if self._thread_stop is not None:
            self._thread_stop.set()
            self._thread_stop = None

    def _tick_until(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self.tick()
            stop.wait(self._interval)

    def _announce(self) -> None:
        clients = self._jobs.clients
        node = Node(
            hostname=self._parent.hostname,
            concurrency=_concurrency(self._parent),
            queues=_consumed_queues(self._parent.app),
            tasks=self._tasks,
            version=__version__,
            app_version=clients.settings.app_version or __version__,
        )
        clients.fleet().announce(node, seconds=clients.settings.lease)
        self._outage.works()

    def _runs(self, request: Any) -> bool:
        """Whether a request that Celery has started still runs. One that started just now counts as running."""
        if time.time() - request.time_start < self._interval:
            return True
        if self._is_prefork:
            result = pool_result(request)
            return result is not None and not result.ready()
        return request.id in self._jobs.executions

    def _renew(self, worker_name: str, runs: list[tuple[int, str]]) -> None:
        clients = self._jobs.clients
        lease = clients.settings.lease
        while runs:
            # One attempt of each job at a time: a worker may have two, and the ledger's answer names jobs only.
            tasks = dict(runs)
            lost = clients.ledger(worker_name).renew(
                tasks.items(), holder=self._jobs.holder, lease=lease, wait_seconds=lease
            )
            self._outage.works()
            for job_id, state in lost.items():
                log = JobLog(logger, job_id, worker_name=worker_name, task_id=tasks[job_id])
                log.debug("not_held", f"is {state}", state=state)
                if state in STOPS:
                    quietly("interrupt a run", partial(self._interrupt, log, STOPS[state]))
            runs = [(job_id, task_id) for job_id, task_id in runs if tasks[job_id] != task_id]

    def _renew_members(self, worker_name: str, members: list[MemberMessage]) -> None:
        clients = self._jobs.clients
        lease = clients.settings.lease
        lost = clients.ledger(worker_name).renew_members(
            [(member.key, member.task_name) for member in members],
            holder=self._jobs.holder,
            node=self._parent.hostname,
            lease=lease,
            wait_seconds=lease,
        )
        self._outage.works()
        for member in members:
            if (state := lost.get(member.key.member_id, "")) in STOPS:
                quietly("interrupt a run", partial(self._interrupt, member.log(logger), STOPS[state]))

    def _interrupt(self, log: JobLog, why: str) -> None:
        """Interrupt the runs of a task, once each. A message that only waits here is refused when it starts."""
        for request in active_requests(log.task_id):
            if request in self._stopped or self._cancels_itself(request):
                continue
            self._stopped.add(request)
            if self._jobs.event_loop.lose(log.task_id):
                log.warning("interrupted", f"cancelled: it was {why}", reason=why)
                continue
            try:
                request.terminate(self._parent.pool)
            except NotImplementedError:
                pool = self._parent.pool_cls.__module__
                log.info(
                    "not_interrupted",
                    f"was {why}, but the pool ({pool}) cannot interrupt it: a handler has to check job.aborted",
                    reason=why,
                )
            else:
                log.warning("interrupted", f"interrupted: it was {why}", reason=why)

    def _cancels_itself(self, request: Any) -> bool:
        """Whether a pool process still has time to cancel its ``async def`` handler by itself.

        It checks its job regularly. Terminating the process at once would skip the handler's cleanup.
        """
        if not self._is_prefork or not iscoroutinefunction(unwrap(request.task.run)):
            return False
        since = self._lost_since.setdefault(request, time.monotonic())
        return time.monotonic() - since < CHECK_SECONDS + CANCEL_SECONDS


class RenewalSwitch(bootsteps.StartStopStep):
    """Consumer step: moves the renewal to the worker's timer while the broker is connected."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    label = "ModelReins jobs' timer"

    def start(self, consumer: Any) -> None:
        """Switch to the timer, because the consumer is connected."""
        renewer = consumer.controller.modelreins_lease_renewer
        renewer.forget_dropped()
        renewer.tick_on_timer()

    def stop(self, consumer: Any) -> None:
        """Switch to a thread, because the connection is lost or the worker shuts down."""
        consumer.controller.modelreins_lease_renewer.tick_on_thread()

    shutdown = stop


def _consumed_queues(app: Any) -> tuple[str, ...]:
    """The queues that the worker consumes, also by alias: only this worker knows the name of its broadcast queue."""
    queues = list(app.amqp.queues.consume_from.values())
    return tuple(dict.fromkeys(name for each in queues for name in (each.name, each.alias) if name))


def _concurrency(worker: Any) -> int:
    """The number of tasks that the worker can run at once."""
    limits = (worker.max_concurrency, getattr(worker.pool, "limit", None), worker.concurrency)
    return max(int(limit) for limit in limits if limit)
