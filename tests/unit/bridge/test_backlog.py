"""The backlog returns the most urgent candidates with a free slot."""

from __future__ import annotations

import pytest

from mr_celery.bridge.capacity import Capacity, Room
from mr_celery.bridge.claiming.inbox import Backlog, Candidate
from mr_celery.job import Job
from mr_celery.ledger import Route, Survey

STATES = dict.fromkeys(("admitted", "claimed", "sent", "running", "deferred", "finished"), 0)


def candidate(job_id: int, queue: str = "gpu", priority: str = "normal") -> Candidate:
    return Candidate(Job({"id": job_id, "priority": priority}), Route("proj.paint", queue))


def room(total: int | None = None, **slots: int) -> Room:
    return Room(Capacity(frozenset({"proj.paint"}), slots or None, total, 1), Survey(0.0, STATES, {}, paused=False))


def ids(candidates: list[Candidate]) -> list[int]:
    return [each.job.id for each in candidates]


@pytest.fixture
def backlog() -> Backlog:
    """Jobs of two queues, in the expected order of claims."""
    made = Backlog()
    made.fill([candidate(5, priority="high"), candidate(1), candidate(2, "text"), candidate(3), candidate(4, "text")])
    return made


@pytest.mark.parametrize(
    ("there_is", "most", "taken"),
    [
        (room(total=9), 9, [5, 1, 2, 3, 4]),
        (room(total=9), 2, [5, 1]),
        (room(total=3), 9, [5, 1, 2]),
        (room(total=0), 9, []),
        (room(total=9), 0, []),
        (room(gpu=1, text=9), 9, [5, 2, 4]),
        (room(text=1), 9, [2]),
        (room(other=9), 9, []),
    ],
)
def test_takes_the_most_urgent_with_a_free_slot(backlog: Backlog, there_is: Room, most: int, taken: list[int]) -> None:
    assert ids(backlog.take(there_is, most)) == taken
    assert len(backlog) == 5 - len(taken)


@pytest.mark.parametrize(
    ("there_is", "fits"), [(room(total=1), True), (room(total=0), False), (room(text=1), True), (room(other=9), False)]
)
def test_fits_if_any_candidate_has_a_free_slot(backlog: Backlog, there_is: Room, fits: bool) -> None:
    assert backlog.fits(there_is) is fits


def test_taken_candidates_are_removed(backlog: Backlog) -> None:
    backlog.take(room(text=9), 9)
    assert not backlog.fits(room(text=9))


def test_lists_the_ids_of_its_jobs(backlog: Backlog) -> None:
    backlog.take(room(total=2), 9)
    assert backlog.ids == {2, 3, 4}


def test_takes_the_slots_too(backlog: Backlog) -> None:
    there_is = room(total=2)
    backlog.take(there_is, 9)
    assert not there_is


def test_returned_candidates_come_first(backlog: Backlog) -> None:
    backlog.give_back(backlog.take(room(total=3), 9))
    assert ids(backlog.take(room(total=9), 9)) == [5, 1, 2, 3, 4]


def test_fill_replaces_the_contents(backlog: Backlog) -> None:
    backlog.fill([candidate(9)])
    assert ids(backlog.take(room(total=9), 9)) == [9]


def test_can_be_emptied(backlog: Backlog) -> None:
    backlog.fill(())
    assert len(backlog) == 0
    assert backlog.take(room(total=9), 9) == []
