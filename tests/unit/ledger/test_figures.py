"""What the transitions count."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from mr_celery.ledger.figures import BOUNDS
from mr_celery.outcome import Outcome
from support.ledgers import DONE, FAILED, LATER, ROUTE, Books, fake_books


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch) -> Books:
    return fake_books(monkeypatch)


def test_the_classes_are_those_of_the_scripts() -> None:
    source = files("mr_celery.ledger").joinpath("lua", "record.lua").read_text()
    listed = re.search(r"local bounds = \{(.*?)\}", source)
    assert listed is not None
    assert tuple(float(bound) for bound in listed[1].split(",")) == BOUNDS


def test_a_jobs_life_is_counted_once(books: Books) -> None:
    books.bring("closed")
    figures = books.ledger.figures()
    assert figures.count("claimed") == 1
    assert figures.count(f"finished:done:{ROUTE.task}") == 1
    assert figures.count("deliveries:delivered") == 1
    for name in ("pickup", f"run:{ROUTE.task}", "delivery"):
        histogram = figures.histogram(name)
        assert sum(histogram.counts) == 1
        assert 0 <= histogram.total < 60
    assert figures.count("lost:lease") == figures.count("resends") == figures.count("aborted") == 0


def test_a_time_is_in_the_first_class_that_holds_it(books: Books) -> None:
    run = books.bring("running")
    books.age(1, "running", seconds=42.0)
    books.ledger.finish(run, DONE, deliver_seconds=LATER)
    histogram = books.ledger.figures().histogram(f"run:{ROUTE.task}")
    cumulative = dict(histogram.cumulative)
    assert (cumulative["30.0"], cumulative["60.0"], cumulative["+Inf"]) == (0, 1, 1)
    assert histogram.total == pytest.approx(42, abs=5)


def test_a_time_above_all_classes_is_counted_too(books: Books) -> None:
    run = books.bring("running")
    books.age(1, "running", seconds=7200.0)
    books.ledger.finish(run, DONE, deliver_seconds=LATER)
    cumulative = dict(books.ledger.figures().histogram(f"run:{ROUTE.task}").cumulative)
    assert (cumulative["3600.0"], cumulative["+Inf"]) == (0, 1)


def test_a_run_that_is_lost_and_started_again_is_picked_up_once(books: Books) -> None:
    run = books.bring("running")
    assert books.die(run) == "again"
    again = books.record()
    books.start(type(run)(1, again.task_id))
    figures = books.ledger.figures()
    assert sum(figures.histogram("pickup").counts) == 1
    assert (figures.count("lost:process"), figures.count("lost:lease")) == (1, 0)


def test_a_lease_that_ran_out_is_told_from_a_process_that_died(books: Books) -> None:
    run = books.bring("running")
    books.make_due("running", 1)
    assert books.reap(run) == "again"
    assert books.ledger.figures().counts("lost") == {"lease": 1}


def test_what_puts_deliveries_off_is_counted_by_request_and_status(books: Books) -> None:
    books.bring("finished")
    books.ledger.undelivered(books.delivery(), "503", wait_seconds=0, error="close 503")
    books.collect()
    books.ledger.undelivered(books.delivery(), "lost", wait_seconds=0)
    figures = books.ledger.figures()
    assert figures.count("deliveries:put_off") == 2
    assert figures.counts("errors") == {"close 503": 1}


def test_a_refused_outcome_that_is_replaced_is_one_outcome(books: Books) -> None:
    books.bring("finished")
    assert books.ledger.replace_outcome(books.delivery(), Outcome.failed("413"))
    figures = books.ledger.figures()
    assert figures.count("deliveries:refused") == 1
    assert figures.counts("finished") == {f"done:{ROUTE.task}": 1}


def test_an_outcome_without_a_run_counts_for_its_task(books: Books) -> None:
    run = books.bring("running")
    books.ledger.lose(1, run.task_id, retries=0, holder="", why="it died", **FAILED)
    run = books.bring("sent", 2)
    books.ledger.fail(2, run.task_id, Outcome.failed("expired"))
    books.bring("aborted", 3)
    figures = books.ledger.figures()
    assert figures.counts("finished") == {f"failed:{ROUTE.task}": 1}
    assert figures.count("aborted") == 1
