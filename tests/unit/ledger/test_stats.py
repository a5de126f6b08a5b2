"""The counters and histograms of the transitions."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from mr_celery.ledger.stats import BOUNDS, Histogram
from mr_celery.outcome import Outcome
from support.ledgers import DONE, FAILED, LATER, ROUTE, LedgerKit, fake_kit


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> LedgerKit:
    return fake_kit(monkeypatch)


def test_buckets_match_the_scripts() -> None:
    source = files("mr_celery.ledger").joinpath("lua", "record.lua").read_text()
    listed = re.search(r"local bounds = \{(.*?)\}", source)
    assert listed is not None
    assert tuple(float(bound) for bound in listed[1].split(",")) == BOUNDS


def test_a_jobs_life_is_counted_once(kit: LedgerKit) -> None:
    kit.bring("closed")
    stats = kit.ledger.stats()
    assert stats.count("claimed") == 1
    assert stats.count(f"finished:done:{ROUTE.task_name}") == 1
    assert stats.count("deliveries:delivered") == 1
    for name in ("pickup", f"run:{ROUTE.task_name}", "delivery"):
        histogram = stats.histogram(name)
        assert sum(histogram.counts) == 1
        assert 0 <= histogram.total < 60
    assert stats.count("lost:lease") == stats.count("resends") == stats.count("aborted") == 0


def test_a_duration_is_in_the_first_bucket_that_holds_it(kit: LedgerKit) -> None:
    run = kit.bring("running")
    kit.age(1, "running", seconds=42.0)
    kit.ledger.finish(run, DONE, deliver_seconds=LATER)
    histogram = kit.ledger.stats().histogram(f"run:{ROUTE.task_name}")
    cumulative = dict(histogram.cumulative)
    assert (cumulative["30.0"], cumulative["60.0"], cumulative["+Inf"]) == (0, 1, 1)
    assert histogram.total == pytest.approx(42, abs=5)


def test_a_duration_above_all_buckets_is_counted(kit: LedgerKit) -> None:
    run = kit.bring("running")
    kit.age(1, "running", seconds=7200.0)
    kit.ledger.finish(run, DONE, deliver_seconds=LATER)
    cumulative = dict(kit.ledger.stats().histogram(f"run:{ROUTE.task_name}").cumulative)
    assert (cumulative["3600.0"], cumulative["+Inf"]) == (0, 1)


def test_a_run_that_is_lost_and_started_again_is_picked_up_once(kit: LedgerKit) -> None:
    run = kit.bring("running")
    assert kit.die(run) == "again"
    again = kit.record()
    kit.start(type(run)(1, again.task_id))
    stats = kit.ledger.stats()
    assert sum(stats.histogram("pickup").counts) == 1
    assert (stats.count("lost:process"), stats.count("lost:lease")) == (1, 0)


def test_expired_leases_and_dead_processes_are_counted_separately(kit: LedgerKit) -> None:
    run = kit.bring("running")
    kit.make_due("running", 1)
    assert kit.reap(run) == "again"
    assert kit.ledger.stats().counts("lost") == {"lease": 1}


def test_failed_deliveries_are_counted_by_request_and_status(kit: LedgerKit) -> None:
    kit.bring("finished")
    kit.ledger.undelivered(kit.delivery(), "503", wait_seconds=0, error="close 503")
    kit.collect()
    kit.ledger.undelivered(kit.delivery(), "lost", wait_seconds=0)
    stats = kit.ledger.stats()
    assert stats.count("deliveries:put_off") == 2
    assert stats.counts("errors") == {"close 503": 1}


def test_a_refused_outcome_that_is_replaced_is_one_outcome(kit: LedgerKit) -> None:
    kit.bring("finished")
    assert kit.ledger.replace_outcome(kit.delivery(), Outcome.failed("413"))
    stats = kit.ledger.stats()
    assert stats.count("deliveries:refused") == 1
    assert stats.counts("finished") == {f"done:{ROUTE.task_name}": 1}


def test_an_outcome_without_a_run_counts_for_its_task(kit: LedgerKit) -> None:
    run = kit.bring("running")
    kit.ledger.lose(1, run.task_id, retries=0, holder="", why="it died", **FAILED)
    run = kit.bring("sent", 2)
    kit.ledger.fail(2, run.task_id, Outcome.failed("expired"))
    kit.bring("aborted", 3)
    stats = kit.ledger.stats()
    assert stats.counts("finished") == {f"failed:{ROUTE.task_name}": 1}
    assert stats.count("aborted") == 1


@pytest.mark.parametrize(
    ("counts", "share", "seconds"),
    [
        ({}, 0.5, None),
        ({0: 1}, 0.5, 0.005),
        ({0: 10}, 1.0, 0.01),
        ({6: 100}, 0.5, 0.75),  # between 0.5 s and 1 s
        ({0: 95, 10: 5}, 0.95, 0.01),
        ({0: 90, 10: 10}, 0.95, 20.0),  # between 10 s and 30 s
        ({15: 3}, 0.5, 3600.0),  # above the last bound
    ],
)
def test_a_quantile_is_interpolated_in_its_bucket(counts: dict[int, int], share: float, seconds: float | None) -> None:
    histogram = Histogram(tuple(counts.get(place, 0) for place in range(len(BOUNDS) + 1)), 0.0)
    assert histogram.quantile(share) == (None if seconds is None else pytest.approx(seconds))
