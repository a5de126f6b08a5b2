"""The trace of a job across claimer, runner and courier."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from mr_celery.bridge.claiming.claimer import Claimer
from mr_celery.bridge.courier import Courier
from mr_celery.bridge.recovery.in_flight_sync import InFlightSync
from mr_celery.bridge.recovery.reaper import Reaper
from mr_celery.celery_worker.runner import Runner
from mr_celery.delivery import Delivery, DeliveryRequest
from mr_celery.handlers import Declaration
from mr_celery.ledger import DeliveryKey, RunKey
from mr_celery.message import Message
from mr_celery.outcome import Outcome, Upload
from mr_celery.settings import Settings
from mr_celery.telemetry import tracing
from support.ledgers import LATER, BridgeHarness, listed, make_harness, refusal
from support.spans import Ended, Memory, remember_spans

MARK = "a-marked-prompt"

Places = list[tuple[str, str]]
"""Pairs of a trace id and a span id."""


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    """Records the spans that end."""
    return remember_spans(monkeypatch)


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> BridgeHarness:
    return make_harness(monkeypatch)


# -- the bridge ----------------------------------------------------------------------------------------------


def within(headers: dict[str, str]) -> tuple[str, str]:
    """Trace id and span id in W3C headers."""
    _, trace, span, _ = headers["traceparent"].split("-")
    return trace, span


def kept(harness: BridgeHarness) -> tuple[str, str]:
    """Trace id and span id that the ledger stores for job 1."""
    return within(json.loads(harness.kit.record().trace))


def place(span: Ended) -> tuple[str, str]:
    return span.trace, span.id


@pytest.fixture
def sent_in(harness: BridgeHarness) -> Places:
    """Trace id and span id under which each message is published."""
    noted: Places = []
    send = harness.publisher.send

    def noting(*args: Any, **options: Any) -> None:
        noted.append(within(tracing.fields()))
        send(*args, **options)

    harness.publisher.send = noting  # type: ignore[method-assign]
    return noted


def test_claim_stores_the_trace_and_publishes_within_it(
    memory: Memory, harness: BridgeHarness, sent_in: Places
) -> None:
    harness.server.dispatch(1, prompt=MARK)
    Claimer(harness.context).run_once()
    claim = memory.one("modelreins claim")
    assert claim.status == "UNSET"
    assert claim.attributes["modelreins.task.id"] == harness.kit.record().task_id
    assert kept(harness) == place(claim)
    assert sent_in == [place(claim)]
    assert MARK not in str(memory.ended)


def test_job_without_a_free_slot_is_not_traced(memory: Memory, harness: BridgeHarness) -> None:
    harness.server.dispatch(*range(1, 9))
    claimer = Claimer(harness.context)
    claimer.run_once()
    claimer.run_once()
    assert len(memory.ended) == len(harness.server.running) == 4


def test_job_listed_as_pending_again_keeps_its_trace(memory: Memory, harness: BridgeHarness) -> None:
    harness.server.dispatch(1)
    claimer = Claimer(harness.context)
    claimer.run_once()
    harness.server.running.clear()
    harness.server.dispatch(1)
    harness.clock.advance(60)
    claimer.run_once()
    assert harness.server.asked("claim") == [1, 1]
    assert memory.tree == ["modelreins claim"]


def test_settled_claim_continues_the_trace_of_the_failed_one(
    memory: Memory, harness: BridgeHarness, sent_in: Places
) -> None:
    harness.server.dispatch(1)
    harness.server.faults["claim"] = [refusal(None)]
    Claimer(harness.context).run_once()
    claim = memory.one("modelreins claim")
    assert (claim.status, claim.attributes["error.type"]) == ("ERROR", "mr_celery.errors.WorkerError")
    assert kept(harness) == place(claim)
    harness.server.running[1] = harness.server.pending.pop(1)  # the claim succeeded, but its response was lost
    harness.kit.make_due("admitted")
    InFlightSync(harness.context).run_once()
    assert memory.tree == ["modelreins claim", "  modelreins settle"]
    settle = memory.one("modelreins settle")
    assert sent_in == [place(settle)]
    assert kept(harness) == place(settle)


def test_job_without_a_handler_fails_its_span(memory: Memory, harness: BridgeHarness) -> None:
    harness.server.dispatch(1, capability="nobody.does")
    Claimer(harness.context).run_once()
    assert harness.kit.state() == "finished"
    assert memory.one("modelreins claim").status == "ERROR"


def test_adopted_job_starts_a_trace(memory: Memory, harness: BridgeHarness, sent_in: Places) -> None:
    harness.server.running[1] = listed(1)
    InFlightSync(harness.context).run_once()
    adopt = memory.one("modelreins adopt")
    assert adopt.attributes["modelreins.adoption"] == "adopted"
    assert kept(harness) == place(adopt)
    harness.kit.make_due("claimed")
    Reaper(harness.context).run_once()
    assert sent_in == [place(adopt)]


def test_later_attempt_is_sent_in_the_same_trace(memory: Memory, harness: BridgeHarness, sent_in: Places) -> None:
    harness.server.dispatch(1)
    Claimer(harness.context).run_once()
    first = harness.kit.record().task_id
    harness.kit.start(RunKey(1, first))
    harness.kit.make_due("running")
    reaper = Reaper(harness.context)
    reaper.run_once()
    reaper.run_once()
    assert harness.kit.record().attempt == 2
    assert sent_in == [place(memory.one("modelreins claim"))] * 2


def test_reopened_job_does_not_reuse_the_old_trace(
    memory: Memory, harness: BridgeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.server.dispatch(1)
    Claimer(harness.context).run_once()
    assert kept(harness)
    end(harness)
    monkeypatch.setattr(tracing, "_tracer", None)
    harness.server.dispatch(1)
    harness.clock.advance(60)
    Claimer(harness.context).run_once()
    assert harness.kit.state() == "sent"
    assert harness.kit.record().trace == ""


def end(harness: BridgeHarness) -> None:
    """Run and close job 1, 100 s ago."""
    run = RunKey(1, harness.kit.record().task_id)
    harness.kit.start(run)
    harness.kit.ledger.finish(run, Outcome("done", "x"), deliver_seconds=LATER)
    harness.kit.close()
    harness.server.running.clear()
    harness.kit.age(1, "ended", seconds=100)


def test_courier_delivers_in_the_jobs_trace(memory: Memory, harness: BridgeHarness) -> None:
    harness.server.dispatch(1)
    Claimer(harness.context).run_once()
    run = RunKey(1, harness.kit.record().task_id)
    harness.kit.start(run)
    harness.kit.ledger.finish(run, Outcome("done", MARK), deliver_seconds=0)
    courier = Courier(harness.context)
    courier.run_once()
    courier.close(10)
    assert memory.tree == ["modelreins claim", "  modelreins deliver"]
    deliver = memory.one("modelreins deliver")
    assert deliver.attributes["modelreins.delivery.outcome"] == "delivered"
    assert deliver.attributes["modelreins.delivery.number"] == 1
    assert MARK not in str(memory.ended)


# -- runs and deliveries -------------------------------------------------------------------------------------


class Place:
    """A worker's connections, which deliver to the harness's server."""

    def __init__(self, harness: BridgeHarness) -> None:
        self._harness = harness
        self.settings = Settings(lease=30.0)

    def delivers(self, worker_name: str) -> bool:
        return True

    def ledger(self, worker_name: str) -> Any:
        return self._harness.kit.ledger

    def api(self, worker_name: str) -> Any:
        return self._harness.server

    def spool(self, worker_name: str) -> None:
        return None

    def delivery(self, worker_name: str) -> Delivery:
        return Delivery(self._harness.server, self._harness.kit.ledger)  # type: ignore[arg-type]

    def output_of(self, worker: str, job_id: int) -> str:
        return f"https://server.test/jobs/{job_id}"


def run_job(harness: BridgeHarness, handler: Callable[..., Any]) -> str:
    """Claim job 1 and run it."""
    harness.server.dispatch(1, prompt=MARK)
    Claimer(harness.context).run_once()
    message = Message("w", 1, harness.kit.record().task_id)
    runner = Runner(Place(harness), "celery@test", "me")  # type: ignore[arg-type]
    return runner.run(message, handler, Declaration(), (), {}).status


def test_run_and_delivery_continue_the_stored_trace(memory: Memory, harness: BridgeHarness) -> None:
    def handler(prompt: str) -> str:
        with memory.tracer.start_as_current_span("the handler's own"):
            return prompt

    run_job(harness, handler)
    assert harness.server.closed == {1: ("done", MARK)}
    assert memory.tree == [
        "modelreins claim",
        "  modelreins run",
        "    the handler's own",
        "  modelreins deliver",
    ]
    run = memory.one("modelreins run")
    assert run.kind == "CONSUMER"
    assert run.attributes["modelreins.run.status"] == "done"
    assert MARK not in str(memory.ended)


def test_failed_run_records_the_exception_type(memory: Memory, harness: BridgeHarness) -> None:
    def handler(prompt: str) -> str:
        raise ValueError(prompt)

    with pytest.raises(ValueError, match=MARK):
        run_job(harness, handler)
    run = memory.one("modelreins run")
    assert (run.status, run.attributes["error.type"], run.attributes["modelreins.run.status"]) == (
        "ERROR",
        "ValueError",
        "failed",
    )
    assert memory.one("modelreins deliver").status == "UNSET"
    assert MARK not in str(memory.ended)


def test_deferred_delivery_fails_its_span_and_the_next_one_shares_the_trace(
    memory: Memory, harness: BridgeHarness
) -> None:
    harness.server.faults["close"] = [refusal(503)]
    run_job(harness, lambda prompt: prompt)
    harness.kit.make_due("finished")
    courier = Courier(harness.context)
    courier.run_once()
    courier.close(10)
    deliveries = [span for span in memory.ended if span.name == "modelreins deliver"]
    outcomes = [(span.status, span.attributes["modelreins.delivery.outcome"]) for span in deliveries]
    assert outcomes == [("ERROR", "put_off"), ("UNSET", "delivered")]
    assert deliveries[0].attributes["http.response.status_code"] == 503
    assert len({span.trace for span in memory.ended}) == 1


def test_uploads_in_threads_are_children_of_the_delivery(memory: Memory, harness: BridgeHarness) -> None:
    class Uploading:
        url = "https://server.test"

        def upload(self, *_: Any, **__: Any) -> dict[str, Any]:
            with memory.tracer.start_as_current_span("upload"):
                return {"slug": "s", "url": "/s/s"}

        def close(self, *_: Any) -> None:
            return None

    sizes = (10, 2**20 + 1, 2**20 + 2)
    outcome = Outcome("done", "x", uploads=tuple(Upload("image/png", f"{size}.png", size) for size in sizes))
    run = harness.bring("running")
    harness.kit.ledger.finish(run, outcome, deliver_seconds=LATER)
    delivery_request = DeliveryRequest(DeliveryKey(1, run.task_id, 1), outcome, parts={}, blobs=[b""] * 3)
    api: Any = Uploading()
    Delivery(api, harness.kit.ledger).deliver(delivery_request)
    assert memory.tree == ["modelreins deliver", *["  upload"] * 3]
