"""Foreign texts in the ledger: a job's record and its history contain only short, printable texts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mr_celery.ledger import Ledger
from mr_celery.outcome import Outcome
from support.hostile import EVERYTHING, unsafe
from support.ledgers import FAILED, LATER, LedgerKit, fake_kit

WORDS = EVERYTHING + "x" * 10_000
FAILURE = Outcome.failed(WORDS, reason=WORDS)


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> LedgerKit:
    return fake_kit(monkeypatch)


def resend(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("sent")
    ledger.resend(1, run.task_id, why=WORDS, budget=3, wait_seconds=LATER, exhausted=FAILURE)


def refuse(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("claimed")
    ledger.unpublished(1, run.task_id, why=WORDS, tries=1, seconds=0.0, most_wait_seconds=LATER, exhausted=FAILURE)


def postpone(kit: LedgerKit, ledger: Ledger) -> None:
    ledger.postpone(kit.bring("running"), nonce="first", why=WORDS, times=3, wait_seconds=LATER)


def lose(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("running")
    ledger.lose(1, run.task_id, retries=0, why=WORDS, **FAILED)


def defer(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("running")
    kit.key_of(run)
    kit.defer(run, note=WORDS)


def finish(kit: LedgerKit, ledger: Ledger) -> None:
    ledger.finish(kit.bring("running", capability=WORDS), FAILURE, deliver_seconds=LATER)


def fail(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("sent", capability=WORDS)
    ledger.fail(1, run.task_id, FAILURE)


def complete(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("running")
    key = kit.key_of(run)
    kit.defer(run)
    kit.complete(key, FAILURE)


def put_off(kit: LedgerKit, ledger: Ledger) -> None:
    kit.bring("finished")
    kit.make_due("finished", 1)
    ledger.undelivered(kit.collect(), WORDS, wait_seconds=LATER)


def replace_outcome(kit: LedgerKit, ledger: Ledger) -> None:
    kit.bring("finished")
    kit.make_due("finished", 1)
    ledger.replace_outcome(kit.collect(), FAILURE, note=WORDS)


def abort(kit: LedgerKit, ledger: Ledger) -> None:
    kit.bring("sent")
    ledger.abort(1, WORDS)


def requeue(kit: LedgerKit, ledger: Ledger) -> None:
    run = kit.bring("sent")
    ledger.requeue(1, run.task_id, WORDS, wait_seconds=LATER)


@pytest.mark.parametrize(
    "step",
    [resend, refuse, postpone, lose, defer, finish, fail, complete, put_off, replace_outcome, abort, requeue],
)
def test_texts_of_a_job_are_short_and_printable(kit: LedgerKit, step: Callable[[LedgerKit, Ledger], None]) -> None:
    step(kit, kit.ledger)
    record = kit.redis.hgetall(kit.key("job:1"))
    events = kit.redis.lrange(kit.key("events:1"), 0, -1)
    texts = [text.decode() for text in (*record.values(), *events)]
    assert any("begin" in text for text in texts)
    for text in texts:
        assert unsafe(text, kept="") == []
        assert len(text.encode()) < 1000


@pytest.mark.parametrize("how", ["delivered", "superseded", "aborted"])
def test_what_the_server_answered_to_parts_is_dropped_with_the_job(kit: LedgerKit, how: str) -> None:
    ledger = kit.ledger
    kit.bring("finished")
    for index in range(100):
        ledger.delivered_part(kit.delivery(), f"artifact:{index}", "x" * 500, lease=LATER)
        ledger.delivered_part(kit.delivery(), f"review:{index}", "x" * 200, lease=LATER)
    if how == "aborted":
        ledger.abort(1, WORDS)
    else:
        kit.close(how=how)
    assert len(kit.record().parts) == (200 if how == "delivered" else 0)
    assert kit.redis.pttl(kit.key("parts:1")) <= 120_000
    kit.redis.delete(kit.key("parts:1"), kit.key("outcome:1"))
    assert kit.record().parts == {}
    assert len(b"".join(kit.redis.hgetall(kit.key("job:1")).values())) < 1000
