"""Traces: one for each job, from its claim to its close, wherever its steps run.

OpenTelemetry makes the spans; which of them are kept, and where they go, is for the user's SDK to say. Where its API
(extra ``otel``) is not installed, or no SDK is set up, nothing here does anything.

What ties the steps together is a *carrier*: the context of a job's trace as the user's propagator writes it, as JSON.
The ledger keeps it with the job.

No span tells anything of what a job is about: no prompt, no result, no file name, and of an exception only its type.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from celery.exceptions import Reject, Retry, TaskPredicate

from .errors import WorkerError
from .log import unexpected
from .version import __version__

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

try:
    from opentelemetry import context, trace
except ImportError:
    _tracer = None
else:
    _tracer = trace.get_tracer("mr_celery", __version__)

JOB = "modelreins.job.id"
WORKER = "modelreins.worker.name"
ATTEMPT = "modelreins.attempt"
TASK = "modelreins.task.id"
DELIVERY = "modelreins.delivery.number"
DELIVERY_OUTCOME = "modelreins.delivery.outcome"
"""``delivered``, ``superseded``, ``put_off``, ``refused`` (what the server never takes) or ``overtaken``."""
RUN_STATUS = "modelreins.run.status"
"""``done``, ``failed``, ``escalated``; or ``retry``, ``given_back``, ``aborted``: then nothing was recorded."""
ADOPTION = "modelreins.adoption"
SIZE = "modelreins.artifact.size"
"""Bytes."""

logger = logging.getLogger("mr_celery")

Kind = Literal["INTERNAL", "CLIENT", "CONSUMER"]


class Span:
    """A span under way.

    Args:
        span: OpenTelemetry's; ``None`` where it is not installed.
    """

    def __init__(self, span: trace.Span | None) -> None:
        self._span = span

    def set(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Tell more of what it is about."""
        if self._span is not None:
            self._span.set_attributes(attributes)

    def fail(self, error: BaseException | None = None) -> None:
        """What it is about has failed. Of ``error`` only the type is told: its message may repeat a prompt."""
        if self._span is None:
            return
        kind = None if error is None else _type_of(error)
        self._span.set_status(trace.StatusCode.ERROR, kind)
        if kind is not None:
            self._span.set_attribute("error.type", kind)
        if isinstance(error, WorkerError) and error.status is not None:
            self._span.set_attribute("http.response.status_code", error.status)


_NONE = Span(None)


def _type_of(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


# -- what ties the steps together ------------------------------------------------------------------------


def fields() -> dict[str, str]:
    """The present context as the user's propagator writes it into a message's headers; empty: nothing is traced."""
    if _tracer is None or not trace.get_current_span().get_span_context().is_valid:
        return {}
    written: dict[str, str] = {}
    try:
        from opentelemetry import propagate  # only here: it looks for the propagators, and there may be a wrong one

        propagate.inject(written)
    except Exception as error:
        unexpected(logger, "the context of a trace cannot be written", error)
        return {}
    return written


def carrier() -> str:
    """The present context as the ledger keeps it; empty: nothing is traced."""
    written = fields()
    return json.dumps(written) if written else ""


@contextmanager
def following(kept: str) -> Iterator[None]:
    """Inside of the block, spans belong to the trace of that carrier.

    Where a span of that trace is under way already (of OpenTelemetry's own Celery instrumentation), it stays the
    parent. An empty carrier changes nothing.
    """
    there = _elsewhere(kept) if kept and _tracer is not None else None
    if there is None:
        yield
        return
    token = context.attach(there)
    try:
        yield
    finally:
        context.detach(token)


def _elsewhere(kept: str) -> context.Context | None:
    """The context in a carrier; ``None`` where a span of its trace is under way, or nothing can be read."""
    try:
        from opentelemetry import propagate

        there = propagate.extract(json.loads(kept))
    except Exception as error:
        unexpected(logger, "the context of a job's trace cannot be read", error)
        return None
    trace_id = trace.get_current_span(there).get_span_context().trace_id
    here = trace.get_current_span().get_span_context().trace_id
    return None if trace_id in (trace.INVALID_TRACE_ID, here) else there


# -- the steps -----------------------------------------------------------------------------------------------


def claim(worker: str, job_id: int, *, since: int) -> AbstractContextManager[Span]:
    """The beginning of a job's trace: it is claimed and sent.

    Args:
        worker: the worker name.
        job_id: the job.
        since: when that began, in nanoseconds since 1970.
    """
    received: dict[str, AttributeValue] = {
        "messaging.system": "modelreins",
        "messaging.operation.name": "claim",
        "messaging.operation.type": "receive",
        "messaging.destination.name": worker,
        "messaging.message.id": str(job_id),
    }
    return _span("modelreins claim", "CONSUMER", _about(worker, job_id) | received, root=True, since=since)


def settle(worker: str, job_id: int) -> AbstractContextManager[Span]:
    """A claim whose answer was lost turns out to have happened, and the job is sent."""
    return _span("modelreins settle", "CONSUMER", _about(worker, job_id))


def adopt(worker: str, job_id: int) -> AbstractContextManager[Span]:
    """The beginning of the trace of a job that runs on the server, and that the ledger does not know."""
    return _span("modelreins adopt", "CONSUMER", _about(worker, job_id), root=True)


@contextmanager
def run(worker: str, job_id: int, attempt: int, task_id: str) -> Iterator[Span]:
    """A run: its handler, and what it takes until the outcome can be recorded."""
    attributes: dict[str, AttributeValue] = {
        **_about(worker, job_id),
        ATTEMPT: attempt,
        TASK: task_id,
        "messaging.system": "celery",
        "messaging.operation.name": "run",
        "messaging.operation.type": "process",
        "messaging.message.id": task_id,
    }
    # Inside of the span that Celery's instrumentation makes of the message, it is a part of what that stands for.
    kind: Kind = "INTERNAL" if _is_part_of_another() else "CONSUMER"
    with _span("modelreins run", kind, attributes) as span:
        try:
            yield span
        except Retry:
            span.set({RUN_STATUS: "retry"})
            raise
        except Reject:
            span.set({RUN_STATUS: "given_back"})
            raise
        except TaskPredicate:
            span.set({RUN_STATUS: "aborted"})
            raise


def spool(job_id: int, size: int) -> AbstractContextManager[Span]:
    """An artifact of ``size`` bytes is brought to the spool."""
    return _span("modelreins spool", "INTERNAL", {JOB: job_id, SIZE: size})


def deliver(worker: str, job_id: int, task_id: str, number: int) -> AbstractContextManager[Span]:
    """A delivery of a job's outcome, the ``number``-th."""
    attributes: dict[str, AttributeValue] = {TASK: task_id, DELIVERY: number}
    return _span("modelreins deliver", "INTERNAL", _about(worker, job_id) | attributes)


def request(
    name: Literal["upload", "review", "close"], worker: str, job_id: int | None, *, method: str, server: str, path: str
) -> AbstractContextManager[Span]:
    """A request to the server.

    Args:
        name: what it does.
        worker: the worker name.
        job_id: the job that it is about, if it is about one.
        method: HTTP's.
        server: the server's address.
        path: the path under it, with names in braces for what differs.
    """
    place = urlsplit(server)
    attributes: dict[str, AttributeValue] = {
        "http.request.method": method,
        "url.template": path,
        "server.address": place.hostname or "",
        "server.port": place.port or (443 if place.scheme == "https" else 80),
    }
    return _span(f"modelreins {name}", "CLIENT", _about(worker, job_id) | attributes)


def _about(worker: str, job_id: int | None) -> dict[str, AttributeValue]:
    return {WORKER: worker} if job_id is None else {WORKER: worker, JOB: job_id}


def _traces() -> bool:
    """Whether there is somebody to take spans: an SDK that is set up."""
    if not isinstance(_tracer, trace.ProxyTracer):
        return True
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def _is_part_of_another() -> bool:
    """Whether a span of this process is under way."""
    if _tracer is None or not _traces():
        return False
    parent = trace.get_current_span().get_span_context()
    return parent.is_valid and not parent.is_remote


@contextmanager
def _span(
    name: str, kind: Kind, attributes: Mapping[str, AttributeValue], *, root: bool = False, since: int | None = None
) -> Iterator[Span]:
    """A span around the block; it has failed where the block raises, but for what is Celery's way to say something."""
    if _tracer is None or not _traces():
        yield _NONE
        return
    begun: trace.Span = _tracer.start_span(
        name,
        context=context.Context() if root else None,
        kind=trace.SpanKind[kind],
        attributes=attributes,
        start_time=since,
    )
    span = Span(begun)
    with trace.use_span(begun, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield span
        except TaskPredicate:
            raise
        except BaseException as error:
            span.fail(error)
            raise
