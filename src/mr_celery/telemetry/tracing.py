"""OpenTelemetry traces: one per job, from claim to close, across all processes.

The user's OpenTelemetry SDK decides which spans are sampled and where they are exported. Without the API (extra
``otel``) or without a configured SDK, this module does nothing.

A *carrier* links the steps of a job: the trace context, written by the user's propagator, as JSON. The ledger stores
it with the job.

Spans contain nothing of a job's content: no prompt, no result, no file name, and only the type of an exception.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from celery.exceptions import Reject, Retry, TaskPredicate

from ..errors import WorkerError
from ..version import __version__
from .logs import unexpected

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
"""``delivered``, ``superseded``, ``put_off``, ``refused`` (by the server, for good) or ``overtaken``."""
RUN_STATUS = "modelreins.run.status"
"""``done``, ``failed``, ``escalated``; or, if no outcome was recorded, ``retry``, ``given_back``, ``aborted``."""
ADOPTION = "modelreins.adoption"
SIZE = "modelreins.artifact.size"
"""The size in bytes."""

logger = logging.getLogger("mr_celery")

Kind = Literal["INTERNAL", "CLIENT", "CONSUMER"]


class Span:
    """A span that has not ended yet, or a placeholder for one.

    Args:
        span: the OpenTelemetry span, or ``None`` if nothing is traced.
    """

    def __init__(self, span: trace.Span | None) -> None:
        self._span = span

    def __enter__(self) -> Span:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def set(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Set further attributes."""
        if self._span is not None:
            self._span.set_attributes(attributes)

    def fail(self, error: BaseException | None = None) -> None:
        """Mark the span as failed. Only the type of ``error`` is recorded: its message may repeat a prompt."""
        if self._span is None:
            return
        kind = None if error is None else _type_of(error)
        self._span.set_status(trace.StatusCode.ERROR, kind)
        if kind is not None:
            self._span.set_attribute("error.type", kind)
        if isinstance(error, WorkerError) and error.status is not None:
            self._span.set_attribute("http.response.status_code", error.status)


_NONE = Span(None)
"""The placeholder for steps that are not traced."""


def _type_of(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


# -- carriers --------------------------------------------------------------------------------------------


def fields() -> dict[str, str]:
    """The current trace context as message headers, written by the user's propagator. Empty if nothing is traced."""
    if _tracer is None or not context.get_current():
        return {}
    if not trace.get_current_span().get_span_context().is_valid:
        return {}
    written: dict[str, str] = {}
    try:
        from opentelemetry import propagate  # imported late: it loads the configured propagators, which may fail

        propagate.inject(written)
    except Exception as error:
        unexpected(logger, "the trace context cannot be written", error)
        return {}
    return written


def carrier() -> str:
    """The current trace context as JSON, for the ledger. Empty if nothing is traced."""
    written = fields()
    return json.dumps(written) if written else ""


def following(kept: str) -> AbstractContextManager[object]:
    """Continue the trace of a carrier inside the block.

    If the current span already belongs to that trace (as with OpenTelemetry's Celery instrumentation), it stays the
    parent. An empty carrier has no effect.
    """
    extracted = _extract(kept) if kept and _tracer is not None else None
    return _NONE if extracted is None else _attached(extracted)


@contextmanager
def _attached(extracted: context.Context) -> Iterator[None]:
    token = context.attach(extracted)
    try:
        yield
    finally:
        context.detach(token)


def _extract(kept: str) -> context.Context | None:
    """The context in a carrier; ``None`` if it is unreadable or the current span belongs to the same trace."""
    try:
        from opentelemetry import propagate

        extracted = propagate.extract(json.loads(kept))
    except Exception as error:
        unexpected(logger, "the trace context of a job cannot be read", error)
        return None
    trace_id = trace.get_current_span(extracted).get_span_context().trace_id
    current = trace.get_current_span().get_span_context().trace_id
    return None if trace_id in (trace.INVALID_TRACE_ID, current) else extracted


# -- the steps -----------------------------------------------------------------------------------------------


def claim(worker_name: str, job_id: int, *, since: int) -> AbstractContextManager[Span]:
    """The root span of a job: claiming it and sending its task.

    Args:
        worker_name: the worker name.
        job_id: the job's id.
        since: start time in nanoseconds since 1970.
    """
    if not _traces():
        return _NONE
    received: dict[str, AttributeValue] = {
        "messaging.system": "modelreins",
        "messaging.operation.name": "claim",
        "messaging.operation.type": "receive",
        "messaging.destination.name": worker_name,
        "messaging.message.id": str(job_id),
    }
    return _span("modelreins claim", "CONSUMER", _about(worker_name, job_id) | received, root=True, since=since)


def settle(worker_name: str, job_id: int) -> AbstractContextManager[Span]:
    """The span of sending a job whose claim succeeded although its response was lost."""
    if not _traces():
        return _NONE
    return _span("modelreins settle", "CONSUMER", _about(worker_name, job_id))


def adopt(worker_name: str, job_id: int) -> AbstractContextManager[Span]:
    """The root span of an adopted job: running on the server, but unknown to the ledger."""
    if not _traces():
        return _NONE
    return _span("modelreins adopt", "CONSUMER", _about(worker_name, job_id), root=True)


def run(worker_name: str, job_id: int, attempt: int, task_id: str) -> AbstractContextManager[Span]:
    """The span of a run: the handler, and packing its outcome until it can be recorded."""
    if not _traces():
        return _NONE
    attributes: dict[str, AttributeValue] = {
        **_about(worker_name, job_id),
        ATTEMPT: attempt,
        TASK: task_id,
        "messaging.system": "celery",
        "messaging.operation.name": "run",
        "messaging.operation.type": "process",
        "messaging.message.id": task_id,
    }
    return _run_span(attributes)


@contextmanager
def _run_span(attributes: Mapping[str, AttributeValue]) -> Iterator[Span]:
    # Celery's instrumentation has a CONSUMER span for the message; inside it, the run is INTERNAL.
    parent = trace.get_current_span().get_span_context()
    kind: Kind = "INTERNAL" if parent.is_valid and not parent.is_remote else "CONSUMER"
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
    """The span of writing an artifact of ``size`` bytes to the spool."""
    if not _traces():
        return _NONE
    return _span("modelreins spool", "INTERNAL", {JOB: job_id, SIZE: size})


def deliver(worker_name: str, job_id: int, task_id: str, number: int) -> AbstractContextManager[Span]:
    """The span of the ``number``-th delivery of a job's outcome."""
    if not _traces():
        return _NONE
    attributes: dict[str, AttributeValue] = {TASK: task_id, DELIVERY: number}
    return _span("modelreins deliver", "INTERNAL", _about(worker_name, job_id) | attributes)


def request(
    name: Literal["upload", "review", "close"],
    worker_name: str,
    job_id: int | None,
    *,
    method: str,
    server: str,
    path: str,
) -> AbstractContextManager[Span]:
    """The span of a request to the server.

    Args:
        name: the operation.
        worker_name: the worker name.
        job_id: the job's id, or ``None`` if the request is not about a job.
        method: the HTTP method.
        server: the server's base URL.
        path: the path under it, as a template such as ``/jobs/{id}/close``.
    """
    if not _traces():
        return _NONE
    place = urlsplit(server)
    attributes: dict[str, AttributeValue] = {
        "http.request.method": method,
        "url.template": path,
        "server.address": place.hostname or "",
        "server.port": place.port or (443 if place.scheme == "https" else 80),
    }
    return _span(f"modelreins {name}", "CLIENT", _about(worker_name, job_id) | attributes)


def _about(worker_name: str, job_id: int | None) -> dict[str, AttributeValue]:
    return {WORKER: worker_name} if job_id is None else {WORKER: worker_name, JOB: job_id}


def _traces() -> bool:
    """Whether an OpenTelemetry SDK is configured. The application may configure one at any time."""
    if _tracer is None:
        return False
    # The API's own classes, which do nothing. isinstance() is slow for them.
    if type(_tracer) is not trace.ProxyTracer:
        return True
    return type(trace.get_tracer_provider()) is not trace.ProxyTracerProvider


@contextmanager
def _span(
    name: str, kind: Kind, attributes: Mapping[str, AttributeValue], *, root: bool = False, since: int | None = None
) -> Iterator[Span]:
    """A span around the block. It fails if the block raises, except for Celery's control flow exceptions."""
    assert _tracer is not None  # noqa: S101 - something is traced
    started: trace.Span = _tracer.start_span(
        name,
        context=context.Context() if root else None,
        kind=trace.SpanKind[kind],
        attributes=attributes,
        start_time=since,
    )
    span = Span(started)
    with trace.use_span(started, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield span
        except TaskPredicate:
            raise
        except BaseException as error:
            span.fail(error)
            raise
