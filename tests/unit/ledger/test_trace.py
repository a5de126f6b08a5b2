"""The trace context of a job in the ledger."""

from __future__ import annotations

import pytest

from mr_celery.job import Job
from mr_celery.ledger import RunKey
from support.ledgers import DONE, LATER, ROUTE, LedgerKit, admit, fake_kit

TRACE = '{"traceparent": "00-aa-bb-01"}'
OTHER = '{"traceparent": "00-cc-dd-01"}'


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> LedgerKit:
    return fake_kit(monkeypatch)


def test_each_run_gets_the_trace_of_the_claim(kit: LedgerKit) -> None:
    kit.bring("admitted")
    first = RunKey(1, kit.ledger.claimed(1, trace=TRACE) or "")
    assert kit.record().trace == TRACE
    assert kit.start(first).trace == TRACE
    kit.make_due("running")
    assert kit.reap(first) == "again"
    second = RunKey(1, kit.record().task_id)
    assert kit.start(second).trace == TRACE
    assert kit.record().attempt == 2


def test_a_job_without_a_trace_has_none(kit: LedgerKit) -> None:
    run = kit.bring("sent")
    assert kit.start(run).trace == ""
    assert kit.record().trace == ""
    assert not kit.redis.hexists(kit.key("job:1"), "trace")


def test_a_claim_to_be_settled_keeps_its_trace(kit: LedgerKit) -> None:
    kit.bring("admitted")
    kit.ledger.settle_later(1, LATER, trace=TRACE)
    kit.ledger.settle_later(1, LATER)
    kit.ledger.claimed(1)
    assert kit.record().trace == TRACE


def test_an_adopted_job_has_a_trace(kit: LedgerKit) -> None:
    kit.ledger.adopt(Job({"id": 1}), ROUTE, asked_at=kit.now(), wait_seconds=LATER, trace=TRACE)
    assert kit.record().trace == TRACE
    assert kit.ledger.adopt(Job({"id": 1}), ROUTE, asked_at=kit.now(), wait_seconds=0, trace=OTHER) == "known"
    assert kit.record().trace == TRACE


def test_a_reopened_job_keeps_its_trace(kit: LedgerKit) -> None:
    kit.bring("admitted")
    run = RunKey(1, kit.ledger.claimed(1, trace=TRACE) or "")
    kit.start(run)
    kit.ledger.finish(run, DONE, deliver_seconds=LATER)
    kit.close()
    adopted = kit.ledger.adopt(Job({"id": 1}), ROUTE, asked_at=kit.now(), wait_seconds=0, trace=OTHER)
    assert (adopted, kit.record().trace) == ("redelivered", TRACE)


@pytest.mark.parametrize("trace", ["", OTHER])
def test_a_new_life_does_not_keep_the_old_trace(kit: LedgerKit, trace: str) -> None:
    kit.bring("admitted")
    kit.ledger.claimed(1, trace=TRACE)
    kit.ledger.abort(1, "aborted for a test")
    assert admit(kit.ledger, Job({"id": 1}), ROUTE, asked_at=kit.now() + 0.001) == "admitted"
    assert kit.record().trace == ""
    kit.ledger.claimed(1, trace=trace)
    assert kit.record().trace == trace
