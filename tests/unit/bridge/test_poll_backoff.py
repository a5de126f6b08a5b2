"""The pauses between polls: tables, and random arrivals with a simulated clock."""

from __future__ import annotations

import random
from bisect import bisect_right
from itertools import pairwise
from statistics import quantiles

import pytest

from mr_celery.bridge.claiming.inbox import PollBackoff
from mr_celery.bridge.limits import LONGEST_IMPOSED_PAUSE, POLL_GROWTH, POLL_WORK, SHORTEST_POLL

POLL = 5.0
"""The poll interval in seconds."""

LATENCY = 0.03
"""Seconds from a poll to the handler: claim, publish and start."""

SEEDS = range(10)


@pytest.mark.parametrize(
    ("since_last_job", "pause"),
    [
        (0.0, SHORTEST_POLL),
        (0.5, SHORTEST_POLL),
        (SHORTEST_POLL / POLL_GROWTH, SHORTEST_POLL),
        (4.0, 1.0),
        (10.0, 2.5),
        (20.0, POLL),
        (3600.0, POLL),
    ],
)
def test_pauses_grow_with_the_time_since_the_last_job(since_last_job: float, pause: float) -> None:
    polls = PollBackoff(POLL)
    polls.pause(1, 100.0)
    assert polls.pause(0, 100.0 + since_last_job) == pytest.approx(pause)


def test_before_the_first_job_it_is_the_poll_interval() -> None:
    polls = PollBackoff(POLL)
    assert [polls.pause(0, 100.0 + POLL * number) for number in range(3)] == [POLL] * 3


@pytest.mark.parametrize("count", [1, 2, 100_000])
def test_any_number_of_new_jobs_resets_the_pause(count: int) -> None:
    polls = PollBackoff(POLL)
    polls.pause(0, 100.0)
    assert polls.pause(count, 105.0) == SHORTEST_POLL


@pytest.mark.parametrize("new", [0, 1])
@pytest.mark.parametrize(
    ("cpu_seconds", "at_least"),
    [
        (0.001, 0.0),
        (0.1, POLL_WORK * 0.1),
        (1.0, POLL_WORK * 1.0),
        (60.0, LONGEST_IMPOSED_PAUSE),
        (1e9, LONGEST_IMPOSED_PAUSE),
    ],
)
def test_an_expensive_poll_is_followed_by_a_longer_pause_up_to_a_limit(
    new: int, cpu_seconds: float, at_least: float
) -> None:
    usual = SHORTEST_POLL if new else POLL
    assert PollBackoff(POLL).pause(new, 100.0, cpu_seconds) == max(usual, at_least)


@pytest.mark.parametrize("poll_interval", [0.05, 0.2])
def test_a_shorter_poll_interval_is_respected(poll_interval: float) -> None:
    polls = PollBackoff(poll_interval)
    assert polls.pause(1, 100.0) == poll_interval
    assert polls.pause(0, 200.0) == poll_interval


def test_after_the_last_job_the_poll_interval_returns_within_half_a_minute() -> None:
    polls, now, count = PollBackoff(POLL), 100.0, 1
    pause = polls.pause(1, now)
    while pause < POLL:
        now += pause
        pause, count = polls.pause(0, now), count + 1
    assert now - 100.0 < 30.0
    assert count < 30


def simulated(arrivals: list[float], dice: random.Random) -> tuple[list[float], list[float]]:
    """Seconds from each arrival to its handler, and the times of the polls."""
    waits: list[float] = []
    times: list[float] = []
    polls, now = PollBackoff(POLL), dice.uniform(0.0, POLL)
    while len(waits) < len(arrivals):
        times.append(now)
        found = arrivals[len(waits) : bisect_right(arrivals, now)]
        waits += [now - at + LATENCY for at in found]
        now += polls.pause(len(found), now) + dice.uniform(0.0, 0.005)
    return waits, times


def poisson(dice: random.Random, rate: float, count: int) -> list[float]:
    """Times of random arrivals with a mean rate per second."""
    now, times = 0.0, []
    for _ in range(count):
        now += dice.expovariate(rate)
        times.append(now)
    return times


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("rate", "median", "nineteen_of_twenty", "polls_a_second"),
    [(0.2, 0.5, 3.0, 2.0), (1.0, 0.2, 0.8, 4.0), (5.0, 0.2, 0.4, 4.0)],
)
def test_random_arrivals_are_picked_up_soon_with_few_polls(
    seed: int, rate: float, median: float, nineteen_of_twenty: float, polls_a_second: float
) -> None:
    dice = random.Random(seed)
    arrivals = poisson(dice, rate, 2000)
    waits, times = simulated(arrivals, dice)
    cuts = quantiles(waits, n=20)
    assert cuts[9] <= median
    assert cuts[18] <= nineteen_of_twenty
    assert len(times) / times[-1] <= polls_a_second


@pytest.mark.parametrize("seed", SEEDS)
def test_there_are_never_more_than_four_polls_a_second(seed: int) -> None:
    dice = random.Random(seed)
    _, times = simulated(poisson(dice, 50.0, 2000), dice)
    assert min(later - earlier for earlier, later in pairwise(times)) >= 0.25 - 1e-9


@pytest.mark.parametrize("seed", SEEDS)
def test_an_empty_inbox_is_polled_at_most_twelve_times_a_minute(seed: int) -> None:
    dice = random.Random(seed)
    _, times = simulated([1000.0], dice)
    assert len([at for at in times if at <= 600.0]) <= 12 * 10
