"""What an operator decides, in each state of a job."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mr_celery.ledger import Route
from mr_celery.operations import drain, fail, pause, requeue
from mr_celery.operations.control import NotPossible
from support.ledgers import LATER, ROUTE, STATES, Books, fake_books

OPEN = ("claimed", "sent", "running")


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch) -> Books:
    return fake_books(monkeypatch)


def nobody(task_id: str, node: str) -> None:
    raise AssertionError("nobody is to be told")


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("what", ["requeue", "fail"])
def test_a_job_is_requeued_or_failed_from_claimed_to_running_and_never_else(
    books: Books, what: str, state: str
) -> None:
    run = books.bring(state)
    told: list[tuple[str, str]] = []
    steps: dict[str, Callable[[], object]] = {
        "requeue": lambda: requeue(books.ledger, 1, announce=lambda *each: told.append(each), lease=LATER),
        "fail": lambda: fail(books.ledger, 1, "no", announce=lambda *each: told.append(each)),
    }
    if state in OPEN:
        steps[what]()
        assert books.state() == ("claimed" if what == "requeue" else "finished")
    else:
        with pytest.raises(NotPossible, match="job 1 "):
            steps[what]()
        assert books.state() == state
    assert told == ([(run.task_id, "celery@test")] if state == "running" else [])


def test_a_requeued_job_has_as_many_attempts_left_as_before(books: Books) -> None:
    books.bring("sent")
    requeue(books.ledger, 1, announce=nobody, lease=LATER)
    record = books.record()
    assert (record.attempt, record.route.max_attempts) == (2, ROUTE.max_attempts + 1)
    assert books.is_due("claimed")


def test_a_requeued_run_gets_a_lease_to_stop(books: Books) -> None:
    run = books.bring("running")
    requeue(books.ledger, 1, announce=lambda task_id, node: None, lease=LATER)
    assert not books.is_due("claimed")
    assert books.hold(run) == {1: "superseded"}


def test_a_job_that_waits_may_be_requeued_though_it_must_not_run_twice(books: Books) -> None:
    books.bring("sent", route=Route("proj.once", "celery", on_lost="fail"))
    requeue(books.ledger, 1, announce=nobody, lease=LATER)
    assert books.record().attempt == 2


def test_a_worker_that_cannot_be_told_at_once_is_no_failure(books: Books, caplog: pytest.LogCaptureFixture) -> None:
    def deaf(task_id: str, node: str) -> None:
        raise OSError("the broker is away")

    run = books.bring("running")
    fail(books.ledger, 1, "no", announce=deaf)
    assert "could not be told at once" in caplog.text
    assert books.hold(run) == {1: "ended"}


def test_a_pause_says_who_when_and_why(books: Books) -> None:
    pause(books.ledger, "a new model")
    kept = books.ledger.standing([]).pause
    assert kept is not None
    assert kept.why == "a new model"
    assert "@" in kept.by
    assert kept.at == pytest.approx(books.now(), abs=5)
    assert books.ledger.survey().paused


def test_while_it_is_paused_nothing_is_admitted_and_what_is_in_flight_goes_on(books: Books) -> None:
    run = books.bring("sent", 2)
    pause(books.ledger)
    with pytest.raises(AssertionError):
        books.bring("admitted", 1)
    assert books.state(1) == "unknown"
    assert books.start(run).job is not None
    assert books.ledger.resume()
    assert not books.ledger.resume()
    books.bring("admitted", 1)


def test_a_drain_tells_what_is_left_and_ends_when_nothing_is(books: Books) -> None:
    books.bring("running", 1)
    books.bring("sent", 2)
    told: list[int] = []

    def wait(seconds: float) -> None:
        books.ledger.abort(len(told), "operator")

    assert drain([books.ledger], tell=told.append, wait=wait) == 0
    assert told == [2, 1, 0]
    assert books.ledger.survey().paused


def test_a_drain_gives_up_in_time(books: Books) -> None:
    books.bring("running", 1)
    times = iter([0.0, 1.0, 1.0, 5.0])
    assert drain([books.ledger], timeout=5.0, wait=lambda seconds: None, clock=lambda: next(times)) == 1
