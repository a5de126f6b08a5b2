"""The carrier of a job's trace, as the ledger keeps it."""

from __future__ import annotations

import pytest

from mr_celery.job import Job
from mr_celery.ledger import RunKey
from support.ledgers import DONE, LATER, ROUTE, Books, admit, fake_books

TRACE = '{"traceparent": "00-aa-bb-01"}'
OTHER = '{"traceparent": "00-cc-dd-01"}'


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch) -> Books:
    return fake_books(monkeypatch)


def test_a_claimed_jobs_trace_is_answered_to_each_of_its_runs(books: Books) -> None:
    books.bring("admitted")
    first = RunKey(1, books.ledger.claimed(1, trace=TRACE) or "")
    assert books.record().trace == TRACE
    assert books.start(first).trace == TRACE
    books.make_due("running")
    assert books.reap(first) == "again"
    second = RunKey(1, books.record().task_id)
    assert books.start(second).trace == TRACE
    assert books.record().attempt == 2


def test_a_job_without_a_trace_has_none(books: Books) -> None:
    run = books.bring("sent")
    assert books.start(run).trace == ""
    assert books.record().trace == ""
    assert not books.redis.hexists(books.key("job:1"), "trace")


def test_a_claim_to_be_settled_keeps_its_trace(books: Books) -> None:
    books.bring("admitted")
    books.ledger.settle_later(1, LATER, trace=TRACE)
    books.ledger.settle_later(1, LATER)
    books.ledger.claimed(1)
    assert books.record().trace == TRACE


def test_an_adopted_job_has_a_trace(books: Books) -> None:
    books.ledger.adopt(Job({"id": 1}), ROUTE, asked_at=books.now(), wait_seconds=LATER, trace=TRACE)
    assert books.record().trace == TRACE
    assert books.ledger.adopt(Job({"id": 1}), ROUTE, asked_at=books.now(), wait_seconds=0, trace=OTHER) == "known"
    assert books.record().trace == TRACE


def test_a_closed_job_that_is_to_be_closed_again_keeps_its_trace(books: Books) -> None:
    books.bring("admitted")
    run = RunKey(1, books.ledger.claimed(1, trace=TRACE) or "")
    books.start(run)
    books.ledger.finish(run, DONE, deliver_seconds=LATER)
    books.close()
    adopted = books.ledger.adopt(Job({"id": 1}), ROUTE, asked_at=books.now(), wait_seconds=0, trace=OTHER)
    assert (adopted, books.record().trace) == ("redelivered", TRACE)


@pytest.mark.parametrize("trace", ["", OTHER])
def test_a_new_life_has_nothing_of_the_old_ones_trace(books: Books, trace: str) -> None:
    books.bring("admitted")
    books.ledger.claimed(1, trace=TRACE)
    books.ledger.abort(1, "aborted for a test")
    assert admit(books.ledger, Job({"id": 1}), ROUTE, asked_at=books.now() + 0.001) == "admitted"
    assert books.record().trace == ""
    books.ledger.claimed(1, trace=trace)
    assert books.record().trace == trace
