"""The looks find the moment just after jobs come, and are no more than the jobs."""

from __future__ import annotations

import random
from dataclasses import dataclass
from statistics import mean, median

import pytest

from mr_celery.bridge.rhythm import LEAST_SECONDS, MARGIN, MEMORY, Rhythm

POLL = 5.0


# -- decisions -----------------------------------------------------------------------------------------------


def in_step(*, period: float = 1.0) -> tuple[Rhythm, float]:
    """A rhythm whose pace is the period, and the time of its last look: one that found more than it should."""
    rhythm = Rhythm(POLL)
    rhythm.found(round(POLL / period), 100.0)
    return rhythm, 100.0


def test_while_nothing_comes_it_is_the_poll_interval() -> None:
    rhythm = Rhythm(POLL)
    assert [rhythm.found(0, 100.0 + POLL * number) for number in range(5)] == [POLL] * 5


def test_several_jobs_at_once_set_the_pace_in_which_they_have_come() -> None:
    assert Rhythm(POLL).found(5, 100.0) == pytest.approx(1.0)


def test_looks_that_find_one_job_each_come_a_little_earlier_and_earlier() -> None:
    rhythm, now = in_step()
    pauses = []
    for _ in range(6):
        now += pauses[-1] if pauses else 1.0
        pauses.append(rhythm.found(1, now))
    assert pauses == sorted(pauses, reverse=True)
    assert 0.98 < pauses[0] < 1.0
    assert 0.9 < pauses[-1] < 0.95


def test_after_a_look_that_came_too_early_the_next_comes_later_by_a_margin_and_two_are_in_step() -> None:
    rhythm, now = in_step()
    now += 1.0
    rhythm.found(1, now)
    pause = rhythm.found(0, now + 1.0)
    assert 1.0 + MARGIN < pause < 1.3 + MARGIN
    again = rhythm.found(2, now + 1.0 + pause)
    assert again < pause - MARGIN  # in step: a little earlier than the pace


def test_the_pace_goes_back_to_the_poll_interval_while_looks_are_fruitless() -> None:
    rhythm, now = in_step(period=0.25)
    pauses = [0.25]
    while pauses[-1] < POLL:
        now += pauses[-1]
        pauses.append(rhythm.found(0, now))
    assert len(pauses) < 40
    assert pauses[1] < 0.5


def test_there_is_a_least_pause() -> None:
    assert Rhythm(POLL).found(100_000, 100.0) == LEAST_SECONDS
    assert Rhythm(0.05).found(100_000, 100.0) == 0.05


def test_a_job_after_a_long_time_without_any_does_not_hurry_it() -> None:
    rhythm = Rhythm(POLL)
    for number in range(5):
        rhythm.found(0, 100.0 + POLL * number)
    assert POLL * MEMORY < rhythm.found(1, 100.0 + POLL * 5) <= POLL


# -- what it leads to, in simulated time ---------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What became of simulated arrivals: how long each job waited, and how many looks there were."""

    waits: list[float]
    looks: int
    seconds: float

    @property
    def budget(self) -> float:
        """How many looks there may be: one for each job, and the idle polls."""
        return len(self.waits) + self.seconds / POLL


def simulated(arrivals: list[float], *, seed: int = 0, skip: float = 30.0, until: float | None = None) -> Seen:
    """Let jobs come at these times, and count from the second ``skip`` on."""
    arrivals, dice, rhythm = sorted(arrivals), random.Random(seed), Rhythm(POLL)
    end = until or arrivals[-1]
    now, come, looks, waits = dice.uniform(0, POLL), 0, 0, []
    while now < end:
        before = come
        while come < len(arrivals) and arrivals[come] <= now:
            if arrivals[come] >= skip:
                waits.append(now - arrivals[come])
            come += 1
        looks += now >= skip
        now += rhythm.found(come - before, now)
    return Seen(waits, looks, end - skip)


def trickle(
    period: float = 1.0, *, start: float = 0.0, end: float = 630.0, jitter: float = 0.0, seed: int = 0
) -> list[float]:
    """Regular arrivals, each up to ``jitter`` seconds early or late."""
    dice = random.Random(seed)
    return [start + period * number + dice.uniform(0, 2) * jitter for number in range(int((end - start) / period))]


SEEDS = range(8)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("jitter", "wait"), [(0.0, 0.1), (0.02, 0.1), (0.1, 0.2)])
def test_a_job_per_second_waits_a_fraction_of_it_with_one_look_per_job(seed: int, jitter: float, wait: float) -> None:
    seen = simulated(trickle(jitter=jitter, seed=seed), seed=seed)
    assert median(seen.waits) < wait
    assert max(seen.waits) < 1.5
    assert seen.looks <= len(seen.waits) + 2


def test_a_trickle_after_a_long_time_without_jobs_is_found_soon() -> None:
    medians = []
    for seed in SEEDS:
        seen = simulated(trickle(start=300.3, end=360.0, jitter=0.01, seed=seed), seed=seed, skip=310.0)
        assert seen.looks <= len(seen.waits) + 2
        medians.append(median(seen.waits))
    assert median(medians) < 0.2
    assert max(medians) < 0.5


@pytest.mark.parametrize("period", [0.2, 0.35, 0.7, 1.003, 1.7, 3.0])
def test_other_regular_trickles_wait_a_fraction_of_their_period_too(period: float) -> None:
    seen = simulated(trickle(period))
    assert median(seen.waits) < period / 8
    assert seen.looks <= len(seen.waits) + 3


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shift", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_it_finds_the_moment_again_when_that_has_moved(shift: float, seed: int) -> None:
    seen = simulated([*trickle(end=100.0), *trickle(start=100.0 + shift, end=200.0)], seed=seed, skip=125.0)
    assert median(seen.waits) < 0.12


@pytest.mark.parametrize(("before", "after"), [(1.0, 0.4), (0.4, 1.0), (1.0, 2.5), (2.5, 0.3)])
def test_it_finds_another_pace(before: float, after: float) -> None:
    seen = simulated([*trickle(before, end=100.0), *trickle(after, start=100.0, end=400.0)], skip=150.0)
    assert median(seen.waits) < after / 7
    assert seen.looks <= len(seen.waits) * 1.05 + 2


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50])
def test_jobs_that_come_at_random_wait_about_half_a_pace(rate: float, seed: int) -> None:
    dice, arrivals = random.Random(seed), [0.0]
    while len(arrivals) < 1000 or arrivals[-1] < 500:
        arrivals.append(arrivals[-1] + dice.expovariate(rate))
    seen = simulated(arrivals, seed=seed)
    pace = min(POLL, max(LEAST_SECONDS, 1 / rate))
    assert 0.4 * pace < mean(seen.waits) < 0.7 * pace
    assert max(seen.waits) < max(6 * pace, 1.0)
    assert seen.looks <= seen.budget
    assert seen.looks <= seen.seconds * max(rate * 1.1, 1.5 / POLL)


@pytest.mark.parametrize(("size", "every"), [(3, 20), (10, 30), (50, 60), (500, 60)])
def test_bursts_bring_no_more_looks_than_jobs(size: int, every: int) -> None:
    arrivals = [every * burst + number * 0.01 for burst in range(1, 40) for number in range(size)]
    seen = simulated(arrivals)
    assert max(seen.waits) <= POLL * 1.1
    assert seen.looks <= seen.budget


def test_when_a_trickle_ends_the_looks_soon_are_the_idle_ones() -> None:
    seen = simulated(trickle(end=100.0), skip=101.0, until=401.0)
    assert seen.looks <= 300 / POLL + 12
