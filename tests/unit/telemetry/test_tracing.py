"""Spans and their attributes, carriers, and working without OpenTelemetry."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from celery.exceptions import Ignore, Reject, Retry
from opentelemetry import context, propagate, trace
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mr_celery import JobFailed
from mr_celery.errors import JobAborted, WorkerError
from mr_celery.server import Api
from mr_celery.telemetry import tracing
from support.mocked_http import MockedHttp
from support.spans import Memory, remember_spans

MARK = "a-marked-prompt"


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    """Records the spans that end."""
    return remember_spans(monkeypatch)


# -- spans ---------------------------------------------------------------------------------------------------

STEPS: dict[str, Callable[[], AbstractContextManager[tracing.Span]]] = {
    "claim": lambda: tracing.claim("w", 7, since=time.time_ns()),
    "settle": lambda: tracing.settle("w", 7),
    "adopt": lambda: tracing.adopt("w", 7),
    "run": lambda: tracing.run("w", 7, 1, "mr-7-1-ab"),
    "spool": lambda: tracing.spool(7, 100),
    "deliver": lambda: tracing.deliver("w", 7, "mr-7-1-ab", 1),
    "close": lambda: tracing.request("close", "w", 7, method="POST", server="https://x.test", path="/jobs/{id}/close"),
}


@pytest.mark.parametrize("step", STEPS)
def test_failed_step_records_only_the_error_type(memory: Memory, step: str) -> None:
    with pytest.raises(JobFailed), STEPS[step]():
        raise JobFailed(MARK)
    span = memory.one(f"modelreins {step}")
    assert span.attributes["modelreins.job.id"] == 7
    assert (span.status, span.attributes["error.type"]) == ("ERROR", "mr_celery.result.JobFailed")
    assert not span.events
    assert MARK not in str(span)


@pytest.mark.parametrize("step", STEPS)
def test_successful_step_has_no_status(memory: Memory, step: str) -> None:
    with STEPS[step]() as span:
        span.set({"more": 1})
    ended = memory.one(f"modelreins {step}")
    assert (ended.status, ended.attributes["more"]) == ("UNSET", 1)
    assert "error.type" not in ended.attributes


def test_http_error_records_its_status(memory: Memory) -> None:
    with STEPS["claim"]() as span:
        span.fail(WorkerError(f"POST /x -> 409: {MARK}", status=409))
    ended = memory.one("modelreins claim")
    assert (ended.status, ended.attributes["http.response.status_code"]) == ("ERROR", 409)
    assert MARK not in str(ended)


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (Retry("again", exc=ValueError(MARK)), "retry"),
        (Reject(MARK, requeue=True), "given_back"),
        (Ignore(MARK), "aborted"),
        (JobAborted(MARK), "aborted"),
    ],
)
def test_control_flow_exceptions_do_not_fail_the_run(memory: Memory, raised: Exception, status: str) -> None:
    with pytest.raises(type(raised)), STEPS["run"]():
        raise raised
    run = memory.one("modelreins run")
    assert (run.status, run.attributes["modelreins.run.status"]) == ("UNSET", status)
    assert MARK not in str(run)


def test_claim_always_starts_a_new_trace(memory: Memory) -> None:
    began = time.time_ns() - 10**9
    with memory.tracer.start_as_current_span("left behind"), tracing.claim("w", 7, since=began):
        pass
    claim = memory.one("modelreins claim")
    assert claim.parent is None
    assert claim.trace != memory.one("left behind").trace
    assert claim.start == began


# -- carriers ------------------------------------------------------------------------------------------------


def test_carrier_sets_the_parent(memory: Memory) -> None:
    with STEPS["claim"]():
        kept = tracing.carrier()
    for _ in range(2):
        with tracing.following(kept), STEPS["deliver"]():
            pass
    assert memory.tree == ["modelreins claim", "  modelreins deliver", "  modelreins deliver"]
    assert not trace.get_current_span().get_span_context().is_valid


def test_current_span_of_the_same_trace_stays_the_parent(memory: Memory) -> None:
    with STEPS["claim"]():
        kept = tracing.carrier()
        with memory.tracer.start_as_current_span("message"), tracing.following(kept), STEPS["run"]():
            pass
    assert memory.tree == ["modelreins claim", "  message", "    modelreins run"]
    assert memory.one("modelreins run").kind == "INTERNAL"


def test_current_span_of_another_trace_is_replaced(memory: Memory) -> None:
    with STEPS["claim"]():
        kept = tracing.carrier()
    with memory.tracer.start_as_current_span("another"):
        with tracing.following(kept), STEPS["run"]():
            pass
        with memory.tracer.start_as_current_span("afterwards"):
            pass
    assert memory.tree == ["modelreins claim", "  modelreins run", "another", "  afterwards"]
    assert memory.one("modelreins run").kind == "CONSUMER"


def test_empty_carrier_has_no_effect(memory: Memory) -> None:
    with memory.tracer.start_as_current_span("whatever"), tracing.following(""), STEPS["run"]():
        pass
    assert memory.tree == ["whatever", "  modelreins run"]


def test_without_an_sdk_the_carrier_is_empty() -> None:
    with STEPS["claim"](), STEPS["run"]() as span:
        assert (tracing.carrier(), tracing.fields()) == ("", {})
        span.set({"more": 1})
        span.fail(ValueError())


class Capitals(TextMapPropagator):
    """A propagator other than W3C Trace Context, as a user may configure it."""

    def inject(self, carrier: Any, context: Any = None, setter: Any = None) -> None:
        headers: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(headers, context)
        carrier["X-TRACE"] = headers["traceparent"].upper()

    def extract(self, carrier: Any, context: Any = None, getter: Any = None) -> context.Context:
        headers = {"traceparent": carrier["X-TRACE"].lower()}
        return TraceContextTextMapPropagator().extract(headers, context)

    @property
    def fields(self) -> set[str]:
        return {"X-TRACE"}


@pytest.fixture
def use() -> Iterator[Callable[[TextMapPropagator], None]]:
    """Sets the global propagator."""
    usual = propagate.get_global_textmap()
    yield propagate.set_global_textmap
    propagate.set_global_textmap(usual)


def test_carrier_uses_the_configured_propagator(memory: Memory, use: Callable[[TextMapPropagator], None]) -> None:
    use(Capitals())
    with STEPS["claim"]():
        kept = tracing.carrier()
        assert tracing.fields().keys() == {"X-TRACE"}
    with tracing.following(kept), STEPS["run"]():
        pass
    assert json.loads(kept).keys() == {"X-TRACE"}
    assert memory.tree == ["modelreins claim", "  modelreins run"]


class Broken(Capitals):
    def inject(self, *_: Any, **__: Any) -> None:
        raise ValueError("broken")

    extract = inject  # type: ignore[assignment]


def test_failing_propagator_only_loses_the_trace(memory: Memory, use: Callable[[TextMapPropagator], None]) -> None:
    use(Broken())
    with STEPS["claim"]():
        assert (tracing.carrier(), tracing.fields()) == ("", {})
    with tracing.following('{"X-TRACE": "x"}'), STEPS["run"]():
        pass
    assert memory.tree == ["modelreins claim", "modelreins run"]


@pytest.mark.parametrize("kept", ["{}", '{"traceparent": "nonsense"}', "no JSON", "[]"])
def test_unreadable_carrier_has_no_effect(memory: Memory, kept: str) -> None:
    with memory.tracer.start_as_current_span("whatever"), tracing.following(kept), STEPS["run"]():
        pass
    assert memory.tree == ["whatever", "  modelreins run"]


# -- requests to the server ----------------------------------------------------------------------------------


def test_uploads_reviews_and_closes_are_spans(memory: Memory, mocked_http: MockedHttp) -> None:
    api = Api("https://server.test:8443/base", "a-marked-token", "w")
    mocked_http.post("/base/artifacts/upload", json={"slug": "s"})
    mocked_http.post("/base/review", json={"id": 1})
    mocked_http.post("/base/jobs/7/close", status_code=503, text=MARK)
    mocked_http.put("/base/presence", json={})
    api.presence("active", MARK)
    api.upload(b"x" * 1000, content_type="text/plain", filename=f"{MARK}.txt", job_id=7)
    api.review("email", MARK, MARK, preview=MARK, job_id=7)
    with pytest.raises(WorkerError):
        api.close(7, MARK, "done")
    assert memory.tree == ["modelreins upload", "modelreins review", "modelreins close"]
    assert {span.kind for span in memory.ended} == {"CLIENT"}
    for span in memory.ended:
        assert span.attributes["modelreins.job.id"] == 7
        assert (span.attributes["server.address"], span.attributes["server.port"]) == ("server.test", 8443)
    assert memory.one("modelreins upload").attributes["http.request.body.size"] > 1000
    close = memory.one("modelreins close")
    assert (close.status, close.attributes["http.response.status_code"]) == ("ERROR", 503)
    assert close.attributes["url.template"] == "/jobs/{id}/close"
    assert MARK not in str(memory.ended)
    assert "a-marked-token" not in str(memory.ended)
