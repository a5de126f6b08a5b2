"""Failed deliveries: which failures count, and how many lead to giving up."""

from __future__ import annotations

import json

import pytest

from mr_celery.delivery.giving_up import BOUNDS, Evidence, Failures, Kind, Streak, kind_of
from mr_celery.errors import WorkerError
from mr_celery.ledger import Tally


def error(route: str, status: int | None, *, retryable: bool = True) -> WorkerError:
    made = WorkerError(f"POST /x -> {status}", status=status, retryable=retryable)
    made.route = route
    return made


KINDS: list[tuple[Exception, Kind]] = [
    # our own
    (ValueError("x"), "ours"),
    (OverflowError("x"), "ours"),
    (KeyError("x"), "ours"),
    (RecursionError("x"), "ours"),
    (error("close", None, retryable=False), "ours"),
    # unusable responses
    (error("upload", 200), "ours"),
    (error("review", 201), "ours"),
    (error("close", 200), "ours"),
    (error("inbox", 200), "away"),  # a page of a proxy rather than the server's response about this job
    # responses about this request
    *[(error("close", status), "answer") for status in (302, 404, 405, 409, 410, 431, 500, 501, 505, 507)],
    (error("inbox", 500), "answer"),
    # unreachable, or a gateway's error
    *[(error("close", status), "away") for status in (None, 401, 403, 502, 504, 520, 522, 530)],
    (OSError("too many open files"), "away"),
    (MemoryError(), "away"),
    # asked to wait
    *[(error("close", status), "later") for status in (408, 425, 429, 503)],
]


@pytest.mark.parametrize(("failure", "kind"), KINDS, ids=lambda value: repr(value))
def test_the_kind_of_a_failure(failure: Exception, kind: Kind) -> None:
    assert kind_of(failure) == kind


def tally(now: float = 0.0, *, passed: int = 0, failed: int = 0, closed: int = 0) -> Tally:
    return Tally(now, passed, failed, closed)


def streak(kind: Kind, *tallies: Tally, missing: bool = False) -> Streak:
    """Consecutive failures, each with the state of other deliveries at the time."""
    failures, made = Failures(), Streak(tallies[0], tallies[0])
    for each in tallies:
        failures, made = Failures.from_json(failures.to_json()).after(
            kind, "review", each, delivered=0, missing=missing
        )
    return made


def own(count: int, **more: int) -> list[Tally]:
    """This many failures of one job, 20 s apart, without failures of others."""
    return [tally(20.0 * number, failed=number, **more) for number in range(count)]


@pytest.mark.parametrize(
    ("others", "missing", "evidence"),
    [
        ({}, False, "alone"),
        ({"closed": 1}, False, "passes"),
        ({"passed": 1}, False, "passes"),
        ({"passed": 1, "failed": 9, "closed": 1}, False, "passes"),
        ({"failed": 1, "closed": 1}, False, "blocked"),
        ({"failed": 1}, False, ""),
        ({}, True, ""),
        ({"closed": 1}, True, "blocked"),
        ({"passed": 1}, True, "passes"),
    ],
)
def test_the_evidence_of_other_deliveries(others: dict[str, int], missing: bool, evidence: Evidence) -> None:
    later = tally(20.0, **{"failed": 1, **{name: count + (name == "failed") for name, count in others.items()}})
    assert streak("answer", tally(), later, missing=missing).evidence == evidence


def test_successes_before_the_first_failure_are_not_evidence() -> None:
    before = {"passed": 5, "closed": 9}
    assert streak("answer", tally(0, failed=7, **before), tally(20, failed=8, **before)).evidence == "alone"


@pytest.mark.parametrize("evidence", [each for each in BOUNDS if each != "away"])
def test_a_bound_is_a_number_of_failures_over_some_seconds(evidence: Evidence) -> None:
    bound, last = BOUNDS[evidence], tally(BOUNDS[evidence].seconds)
    enough = Streak(tally(), last, seen=bound.times, evidence=evidence, times=bound.times)
    assert enough.reached(BOUNDS)
    assert not Streak(tally(), last, seen=7, evidence=evidence, times=bound.times - 1).reached(BOUNDS)
    early = tally(bound.seconds - 1)
    assert not Streak(tally(), early, seen=99, evidence=evidence, times=99).reached(BOUNDS)


def test_while_nobody_gets_through_there_is_no_bound() -> None:
    everybody = [tally(20.0 * number, failed=5 * number) for number in range(10_000)]
    assert streak("answer", *everybody[:3], *everybody[-50:]).evidence == ""
    assert not streak("answer", *everybody[:3], *everybody[-50:]).reached(BOUNDS)


def test_the_count_restarts_once_others_succeed_again() -> None:
    outage = [tally(20.0 * number, failed=5 * number) for number in range(50)]
    after = tally(1010.0, failed=250, passed=3, closed=3)
    made = streak("answer", *outage, after)
    assert (made.evidence, made.times, made.seconds) == ("passes", 1, 0.0)
    assert not made.reached(BOUNDS)


def test_errors_of_our_own_need_no_evidence() -> None:
    assert not streak("ours", *own(7)).reached(BOUNDS)
    assert streak("ours", *own(8)).reached(BOUNDS)


def test_a_server_that_is_away_for_everybody_is_waited_for() -> None:
    assert not streak("away", *own(10_000)[::100], *own(10_000)[-100:]).reached(BOUNDS)


def test_no_answer_counts_only_if_others_got_one_since_the_last_time() -> None:
    now_and_then = [tally(20.0 * number, passed=number // 2) for number in range(61)]
    assert streak("away", *now_and_then).times == 30
    assert streak("away", *now_and_then).reached(BOUNDS)
    once = [tally(0.0), *[tally(20.0 * number, passed=1) for number in range(1, 100)]]
    assert streak("away", *once).times == 1


def test_the_count_restarts_once_a_part_is_delivered() -> None:
    failures, _ = Failures().after("ours", "review", tally(), delivered=0)
    failures, made = failures.after("ours", "review", tally(20), delivered=0)
    assert made.times == 2
    failures, made = failures.after("ours", "review", tally(40), delivered=1)
    assert made.times == 1


def test_failures_of_another_kind_in_between_are_counted_apart() -> None:
    failures, made = Failures(), Streak(tally(), tally())
    for number in range(16):
        kind: Kind = "away" if number % 2 else "ours"
        failures, last = failures.after(kind, "review", tally(20.0 * number), delivered=0)
        made = last if kind == "ours" else made
    assert made.reached(BOUNDS)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"runs":{"a":{}}}', '{"runs":7}', '{"delivered":"x"}'])
def test_unreadable_earlier_failures_do_not_count(text: str) -> None:
    assert Failures.from_json(text) == Failures()


def test_reasons_are_counted_separately_and_few_are_kept() -> None:
    failures, times = Failures(), []
    for reason in ("503", "503", "network", "503", *map(str, range(20)), "503"):
        failures, count = failures.because(reason)
        times.append(count)
    assert times[:4] == [1, 2, 1, 3]
    assert times[-1] == 1
    assert len(failures.reasons) == 8


def test_failures_are_stored_under_the_names_that_the_version_before_reads() -> None:
    failures, _ = Failures().after("ours", "review", tally(), delivered=0)
    assert set(json.loads(failures.to_json())) == {"delivered", "runs", "reasons"}
    assert Failures.from_json(failures.to_json()) == failures
