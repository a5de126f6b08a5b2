"""The trace of a job through the parts that its steps run in: bridge, worker, courier."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from mr_celery import tracing
from mr_celery.bridge.claimer import Claimer
from mr_celery.bridge.courier import Courier
from mr_celery.bridge.reaper import Reaper
from mr_celery.bridge.sync import InFlightSync
from mr_celery.delivery import Consignment, Delivery
from mr_celery.ledger import DeliveryKey, RunKey
from mr_celery.outcome import Outcome, Upload
from mr_celery.routing import Declaration
from mr_celery.runner import Message, Runner
from mr_celery.settings import Settings
from support.ledgers import LATER, Desk, listed, make_desk, refusal
from support.spans import Ended, Memory, remember_spans

MARK = "a-marked-prompt"

Places = list[tuple[str, str]]
"""Traces, and spans in them."""


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    """Spans are kept."""
    return remember_spans(monkeypatch)


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    return make_desk(monkeypatch)


# -- the bridge ----------------------------------------------------------------------------------------------


def within(headers: dict[str, str]) -> tuple[str, str]:
    """The trace and the span that W3C's headers name."""
    _, trace, span, _ = headers["traceparent"].split("-")
    return trace, span


def kept(desk: Desk) -> tuple[str, str]:
    """The trace and the span that the ledger keeps with job 1."""
    return within(json.loads(desk.books.record().trace))


def place(span: Ended) -> tuple[str, str]:
    return span.trace, span.id


@pytest.fixture
def sent_in(desk: Desk) -> Places:
    """The trace and the span in which each message is published."""
    noted: Places = []
    send = desk.sender.send

    def noting(*args: Any, **options: Any) -> None:
        noted.append(within(tracing.fields()))
        send(*args, **options)

    desk.sender.send = noting  # type: ignore[method-assign]
    return noted


def test_a_claimed_job_has_its_trace_in_the_ledger_and_is_sent_within(
    memory: Memory, desk: Desk, sent_in: Places
) -> None:
    desk.server.dispatch(1, prompt=MARK)
    Claimer(desk.office).run_once()
    claim = memory.one("modelreins claim")
    assert claim.status == "UNSET"
    assert claim.attributes["modelreins.task.id"] == desk.books.record().task_id
    assert kept(desk) == place(claim)
    assert sent_in == [place(claim)]
    assert MARK not in str(memory.ended)


def test_a_job_that_there_is_no_room_for_makes_no_trace(memory: Memory, desk: Desk) -> None:
    desk.server.dispatch(*range(1, 9))
    claimer = Claimer(desk.office)
    claimer.run_once()
    claimer.run_once()
    assert len(memory.ended) == len(desk.server.running) == 4


def test_a_job_that_was_put_back_goes_on_in_its_trace(memory: Memory, desk: Desk) -> None:
    desk.server.dispatch(1)
    claimer = Claimer(desk.office)
    claimer.run_once()
    desk.server.running.clear()
    desk.server.dispatch(1)
    desk.clock.advance(60)
    claimer.run_once()
    assert desk.server.asked("claim") == [1, 1]
    assert memory.tree == ["modelreins claim"]


def test_a_refused_claim_has_failed_and_its_job_may_go_on_in_its_trace(
    memory: Memory, desk: Desk, sent_in: Places
) -> None:
    desk.server.dispatch(1)
    desk.server.faults["claim"] = [refusal(None)]
    Claimer(desk.office).run_once()
    claim = memory.one("modelreins claim")
    assert (claim.status, claim.attributes["error.type"]) == ("ERROR", "mr_celery.errors.WorkerError")
    assert kept(desk) == place(claim)
    desk.server.running[1] = desk.server.pending.pop(1)  # its answer was lost, and it had happened
    desk.books.make_due("admitted")
    InFlightSync(desk.office).run_once()
    assert memory.tree == ["modelreins claim", "  modelreins settle"]
    settle = memory.one("modelreins settle")
    assert sent_in == [place(settle)]
    assert kept(desk) == place(settle)


def test_a_job_that_no_handler_takes_has_failed_in_its_trace(memory: Memory, desk: Desk) -> None:
    desk.server.dispatch(1, capability="nobody.does")
    Claimer(desk.office).run_once()
    assert desk.books.state() == "finished"
    assert memory.one("modelreins claim").status == "ERROR"


def test_an_adopted_job_begins_a_trace(memory: Memory, desk: Desk, sent_in: Places) -> None:
    desk.server.running[1] = listed(1)
    InFlightSync(desk.office).run_once()
    adopt = memory.one("modelreins adopt")
    assert adopt.attributes["modelreins.adoption"] == "adopted"
    assert kept(desk) == place(adopt)
    desk.books.make_due("claimed")
    Reaper(desk.office).run_once()
    assert sent_in == [place(adopt)]


def test_a_new_attempt_is_sent_in_the_trace_of_the_first(memory: Memory, desk: Desk, sent_in: Places) -> None:
    desk.server.dispatch(1)
    Claimer(desk.office).run_once()
    first = desk.books.record().task_id
    desk.books.start(RunKey(1, first))
    desk.books.make_due("running")
    reaper = Reaper(desk.office)
    reaper.run_once()
    reaper.run_once()
    assert desk.books.record().attempt == 2
    assert sent_in == [place(memory.one("modelreins claim"))] * 2


def test_a_new_life_of_a_job_has_a_new_trace_or_none(
    memory: Memory, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.server.dispatch(1)
    Claimer(desk.office).run_once()
    assert kept(desk)
    end(desk)
    monkeypatch.setattr(tracing, "_tracer", None)
    desk.server.dispatch(1)
    desk.clock.advance(60)
    Claimer(desk.office).run_once()
    assert desk.books.state() == "sent"
    assert desk.books.record().trace == ""


def end(desk: Desk) -> None:
    """Let job 1 run, and be closed, as of a while ago."""
    run = RunKey(1, desk.books.record().task_id)
    desk.books.start(run)
    desk.books.ledger.finish(run, Outcome("done", "x"), deliver_seconds=LATER)
    desk.books.close()
    desk.server.running.clear()
    desk.books.age(1, "ended", seconds=100)


def test_the_courier_delivers_in_the_trace_of_the_job(memory: Memory, desk: Desk) -> None:
    desk.server.dispatch(1)
    Claimer(desk.office).run_once()
    run = RunKey(1, desk.books.record().task_id)
    desk.books.start(run)
    desk.books.ledger.finish(run, Outcome("done", MARK), deliver_seconds=0)
    courier = Courier(desk.office)
    courier.run_once()
    courier.close(10)
    assert memory.tree == ["modelreins claim", "  modelreins deliver"]
    deliver = memory.one("modelreins deliver")
    assert deliver.attributes["modelreins.delivery.outcome"] == "delivered"
    assert deliver.attributes["modelreins.delivery.number"] == 1
    assert MARK not in str(memory.ended)


# -- runs and deliveries -------------------------------------------------------------------------------------


class Place:
    """A workplace that delivers to the desk's server."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.settings = Settings(lease=30.0)

    def delivers(self, worker: str) -> bool:
        return True

    def ledger(self, worker: str) -> Any:
        return self._desk.books.ledger

    def api(self, worker: str) -> Any:
        return self._desk.server

    def spool(self, worker: str) -> None:
        return None

    def delivery(self, worker: str) -> Delivery:
        return Delivery(self._desk.server, self._desk.books.ledger)  # type: ignore[arg-type]


def run_job(desk: Desk, handler: Callable[..., Any]) -> str:
    """Let job 1 be claimed and run."""
    desk.server.dispatch(1, prompt=MARK)
    Claimer(desk.office).run_once()
    message = Message("w", 1, desk.books.record().task_id)
    return Runner(Place(desk), "celery@test", "me").run(message, handler, Declaration(), (), {})  # type: ignore[arg-type]


def test_a_run_and_its_delivery_are_in_the_trace_that_the_ledger_keeps(memory: Memory, desk: Desk) -> None:
    def handler(prompt: str) -> str:
        with memory.tracer.start_as_current_span("the handler's own"):
            return prompt

    run_job(desk, handler)
    assert desk.server.closed == {1: ("done", MARK)}
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


def test_a_run_that_fails_tells_the_type_of_what_its_handler_raised(memory: Memory, desk: Desk) -> None:
    def handler(prompt: str) -> str:
        raise ValueError(prompt)

    with pytest.raises(ValueError, match=MARK):
        run_job(desk, handler)
    run = memory.one("modelreins run")
    assert (run.status, run.attributes["error.type"], run.attributes["modelreins.run.status"]) == (
        "ERROR",
        "ValueError",
        "failed",
    )
    assert memory.one("modelreins deliver").status == "UNSET"
    assert MARK not in str(memory.ended)


def test_a_delivery_that_is_put_off_has_failed_and_the_next_one_is_in_the_same_trace(
    memory: Memory, desk: Desk
) -> None:
    desk.server.faults["close"] = [refusal(503)]
    run_job(desk, lambda prompt: prompt)
    desk.books.make_due("finished")
    courier = Courier(desk.office)
    courier.run_once()
    courier.close(10)
    deliveries = [span for span in memory.ended if span.name == "modelreins deliver"]
    told = [(span.status, span.attributes["modelreins.delivery.outcome"]) for span in deliveries]
    assert told == [("ERROR", "put_off"), ("UNSET", "delivered")]
    assert deliveries[0].attributes["http.response.status_code"] == 503
    assert len({span.trace for span in memory.ended}) == 1


def test_large_artifacts_are_uploaded_in_threads_within_the_delivery(memory: Memory, desk: Desk) -> None:
    class Uploading:
        url = "https://server.test"

        def upload(self, *_: Any, **__: Any) -> dict[str, Any]:
            with memory.tracer.start_as_current_span("upload"):
                return {"slug": "s", "url": "/s/s"}

        def close(self, *_: Any) -> None:
            return None

    sizes = (10, 2**20 + 1, 2**20 + 2)
    outcome = Outcome("done", "x", uploads=tuple(Upload("image/png", f"{size}.png", size) for size in sizes))
    run = desk.bring("running")
    desk.books.ledger.finish(run, outcome, deliver_seconds=LATER)
    consignment = Consignment(DeliveryKey(1, run.task_id, 1), outcome, parts={}, blobs=[b""] * 3)
    api: Any = Uploading()
    Delivery(api, desk.books.ledger).deliver(consignment)
    assert memory.tree == ["modelreins deliver", *["  upload"] * 3]
