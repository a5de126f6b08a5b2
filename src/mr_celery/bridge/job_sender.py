"""Publishes the tasks of claimed jobs, and notes what the broker refuses."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..backoff import CircuitBreaker
from ..failure_texts import UNPUBLISHED_SECONDS, UNPUBLISHED_TRIES, never_published
from ..handlers import Handler, Registry, no_handler
from ..job import Job
from ..ledger import Ledger, Route
from ..outcome import Outcome
from ..server.api import job_address
from ..telemetry import tracing
from ..telemetry.logs import JobLog
from ..telemetry.outages import Outage
from .destinations import Destination
from .limits import LONGEST_PAUSE, MOST_REMEMBERED, PROBE_SECONDS, TRIAL_SECONDS
from .publisher import MessageRefused, NotPublished, Publisher, QueueFull
from .routes import Routes

logger = logging.getLogger("mr_celery.bridge")

_Key = tuple[str, str, str]


@dataclass(frozen=True)
class _Refused:
    """A destination for which the broker refuses a handler's messages, or their queue."""

    why: str
    breaker: CircuitBreaker
    by_publish: bool


class JobSender:
    """Publishes claimed jobs: claimed → sent.

    No jobs are claimed for a destination while the broker refuses its messages. A destination is verified before the
    first job is claimed for it, and again at intervals after a refusal. If verification succeeds but the broker
    refused messages, one job at a time is claimed as a trial.

    Args:
        ledger: the ledger of the worker name.
        registry: the handlers.
        routes: the routes of the handlers.
        publisher: publishes messages to the broker.
        outage: the outage of the broker.
        wait_seconds: seconds that a message may wait for a worker before the reaper looks for it.
        url: the server, for the log.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        registry: Registry,
        routes: Routes,
        publisher: Publisher,
        outage: Outage,
        *,
        wait_seconds: float,
        url: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._registry = registry
        self._routes = routes
        self._publisher = publisher
        self._outage = outage
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._log = partial(job_log, ledger.worker_name, url)
        self._lock = threading.Lock()
        self._verified: set[_Key] = set()
        self._refused: dict[_Key, _Refused] = {}
        self._no_verification_until = float("-inf")

    # -- before the claim --------------------------------------------------------------------------------------

    def route_of(self, handler: Handler, job: Job) -> Route | None:
        """The route by which a pending job can run now; ``None`` if there is none: the job must not be claimed.

        Call from one thread only; it may contact the broker.
        """
        found = self._routes.of_pending(handler, job)
        if found is None:
            return None
        route, destination = found
        if not self._refused and _key(handler.name, destination) in self._verified:
            return route
        return route if self._is_usable(handler.name, destination) else None

    def refusal(self, task_name: str, destination: Destination) -> str:
        """The reason why the broker refuses a task's messages to a destination; empty if it accepts them."""
        refused = self._refused.get(_key(task_name, destination))
        return "" if refused is None else refused.why

    def _is_usable(self, task_name: str, destination: Destination) -> bool:
        key = _key(task_name, destination)
        refused = self._refused.get(key)
        if refused is None:
            return key in self._verified or self._verify(task_name, destination)
        if not refused.breaker.allows() or not self._verify(task_name, destination):
            return False
        if not refused.by_publish:
            self._accept(task_name, destination)
        return True

    def _verify(self, task_name: str, destination: Destination) -> bool:
        """Whether the broker accepts the declaration of a destination, or is unreachable."""
        if self._clock() < self._no_verification_until:
            return True
        try:
            self._publisher.verify(destination)
        except MessageRefused as error:
            self._refuse(task_name, destination, str(error), by_publish=False)
            return False
        except NotPublished as error:
            # Jobs may still be claimed: their messages wait for the broker.
            logger.debug("%s cannot be verified, the broker is unreachable: %s", destination, error)
            self._no_verification_until = self._clock() + PROBE_SECONDS
            return True
        with self._lock:
            if len(self._verified) >= MOST_REMEMBERED:
                self._verified.clear()
            self._verified.add(_key(task_name, destination))
        return True

    def _refuse(self, task_name: str, destination: Destination, why: str, *, by_publish: bool) -> None:
        """Open the circuit of a destination."""
        key = _key(task_name, destination)
        breaker = CircuitBreaker(failures=1, seconds=TRIAL_SECONDS if by_publish else PROBE_SECONDS, clock=self._clock)
        breaker.failed()
        with self._lock:
            before = self._refused.get(key)
            self._refused[key] = _Refused(why, breaker, by_publish)
            self._verified.discard(key)
        if before is None or before.why != why:
            logger.error("jobs for %s stay pending: the broker refuses messages to %s: %s", task_name, destination, why)

    def _accept(self, task_name: str, destination: Destination) -> None:
        """Close the circuit of a destination: the broker accepted a message or a declaration."""
        with self._lock:
            closed = self._refused.pop(_key(task_name, destination), None)
        if closed is not None:
            logger.info("jobs for %s are claimed again: the broker accepts messages to %s", task_name, destination)

    # -- after the claim ---------------------------------------------------------------------------------------

    def send(
        self,
        job_id: int,
        route: Route,
        task_id: str,
        *,
        priority: str,
        retries: int = 0,
        trace: str = "",
        again: bool = False,
        job: Job | None = None,
    ) -> bool:
        """Publish the task of a claimed job. The caller must then record it with :meth:`sent`.

        Args:
            job_id: the job.
            route: the route for which it was claimed.
            task_id: the attempt's task id.
            priority: the job's priority.
            retries: the number of Celery retries that the attempt has had.
            trace: the carrier of the job's trace, if no span of it is active.
            again: whether the job was sent before, for the log.
            job: the job's fields, for routers that use them.

        Returns:
            ``False`` if there is nothing to send: the job has no handler here and was closed as failed, or it is over.

        Raises:
            MessageRefused: the broker refuses the message. The reaper tries again, and finally fails the job.
            NotPublished: the broker is unreachable; the reaper tries again.
            LedgerUnavailable: the ledger is unreachable; the reaper tries again.
        """
        handler = self._registry.named(route.task_name)
        if handler is None:
            self.fail_unhandled(job_id, task_id, task_name=route.task_name)
            return False
        chosen, destination = self._routes.of_claimed(handler, job_id, job, route)
        if chosen.queue != route.queue and not self._ledger.reroute(job_id, task_id, chosen.queue):
            return False
        log = self._log(job_id, task_id, route.task_name)
        try:
            if destination.problem:
                raise MessageRefused(destination.problem)
            publish = partial(self._publisher.send, handler, self._ledger.worker_name, job_id, task_id)
            if trace:
                with tracing.following(trace):
                    publish(destination=destination, priority=priority, retries=retries)
            else:
                publish(destination=destination, priority=priority, retries=retries)
        except MessageRefused as error:
            self._note_refusal(job_id, task_id, handler, destination, error)
            raise
        except Exception as error:
            why = str(error) if isinstance(error, NotPublished) else f"{type(error).__name__}: {error}"
            self._outage.failed(why)
            log.debug("not_sent", "not published, will be retried", reason=why)
            raise NotPublished from error
        self._outage.works()
        if self._refused and _key(handler.name, destination) in self._refused:
            self._accept(handler.name, destination)
        event, text = ("sent_again", "sent again") if again else ("sent", f"sent to queue {chosen.queue}")
        log.info(event, text, queue=chosen.queue)
        return True

    def sent(self, task_ids: Mapping[int, str]) -> None:
        """Claimed → sent, for each job that was published under the given task id.

        Raises:
            LedgerUnavailable: it could not be recorded; the reaper publishes the jobs again, which is safe.
        """
        self._ledger.sent(task_ids, wait_seconds=self._wait_seconds)

    def publish(self, job_id: int, route: Route, task_id: str, **options: Any) -> None:
        """Claimed → sent, for one job: :meth:`send`, then :meth:`sent`."""
        if self.send(job_id, route, task_id, **options):
            self.sent({job_id: task_id})

    def fail_unhandled(self, job_id: int, task_id: str, *, task_name: str = "", refusal: str = "") -> None:
        """Claimed → finished, for a job that no handler takes.

        Args:
            job_id: the job.
            task_id: the attempt's task id.
            task_name: the handler for which the job was claimed; empty if there was none.
            refusal: the registry's explanation for the outcome, if it is known. The log leaves it out, because it
                repeats fields of the job.
        """
        why = no_handler("the job")
        if task_name:
            why = f"its handler {task_name} is not declared in the application that the bridge runs"
        if self._ledger.fail(job_id, task_id, Outcome.failed(refusal or why, reason=why)):
            log = self._log(job_id, task_id, task_name)
            log.failed(f"failed: {why}", why=why)

    def _note_refusal(
        self, job_id: int, task_id: str, handler: Handler, destination: Destination, error: MessageRefused
    ) -> None:
        """Record that the broker refused a message. Repeated refusals fail the job, except for a full queue."""
        why = str(error)
        full = isinstance(error, QueueFull)
        text = never_published(str(destination), why)
        answer = self._ledger.unpublished(
            job_id,
            task_id,
            why=why,
            tries=10**9 if full else UNPUBLISHED_TRIES,  # a full queue is waited for, however long it takes
            seconds=UNPUBLISHED_SECONDS,
            most_wait_seconds=LONGEST_PAUSE,
            exhausted=Outcome.failed(text),
        )
        if not full and not destination.problem:
            self._refuse(handler.name, destination, why, by_publish=True)
        log = self._log(job_id, task_id, handler.name)
        if answer == "new":
            log.warning("not_sent", f"not published to {destination}, will be retried: {why}", reason=why)
        elif answer == "failed":
            log.failed(f"failed: {text}", why=why, level=logging.ERROR)


def job_log(worker_name: str, url: str, job_id: int, task_id: str = "", task_name: str = "") -> JobLog:
    """The log of a job in a bridge.

    Args:
        worker_name: the worker name that the job is assigned to.
        url: the server's address.
        job_id: the job.
        task_id: the attempt's task id; empty if it has none yet.
        task_name: the name of its task.
    """
    where = job_address(url, job_id)
    return JobLog(logger, job_id, worker_name=worker_name, task_id=task_id, task_name=task_name, output=where)


def _key(task_name: str, destination: Destination) -> _Key:
    return (task_name, destination.exchange, destination.routing_key)
