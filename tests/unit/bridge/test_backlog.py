"""What a bridge knows of and has not claimed: given out in order, as far as there is room."""

from __future__ import annotations

import pytest

from mr_celery.bridge.backlog import Backlog
from mr_celery.bridge.candidates import Candidate
from mr_celery.bridge.capacity import Capacity, Room
from mr_celery.job import Job
from mr_celery.ledger import Route, Survey

STATES = dict.fromkeys(("admitted", "claimed", "sent", "running", "finished"), 0)


def candidate(job_id: int, queue: str = "gpu", priority: str = "normal") -> Candidate:
    return Candidate(Job({"id": job_id, "priority": priority}), Route("proj.paint", queue))


def room(total: int | None = None, **slots: int) -> Room:
    return Room(Capacity(frozenset({"proj.paint"}), slots or None, total, 1), Survey(0.0, STATES, {}, paused=False))


def ids(candidates: list[Candidate]) -> list[int]:
    return [each.job.id for each in candidates]


@pytest.fixture
def backlog() -> Backlog:
    """Jobs of two queues, in the order in which they are to be claimed."""
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
def test_takes_the_most_urgent_for_which_there_is_room(
    backlog: Backlog, there_is: Room, most: int, taken: list[int]
) -> None:
    assert ids(backlog.take(there_is, most)) == taken
    assert len(backlog) == 5 - len(taken)


@pytest.mark.parametrize(
    ("there_is", "fits"), [(room(total=1), True), (room(total=0), False), (room(text=1), True), (room(other=9), False)]
)
def test_fits_where_there_is_room_for_one(backlog: Backlog, there_is: Room, fits: bool) -> None:
    assert backlog.fits(there_is) is fits


def test_what_is_taken_does_not_fit_any_more(backlog: Backlog) -> None:
    backlog.take(room(text=9), 9)
    assert not backlog.fits(room(text=9))


def test_tells_which_jobs_it_has(backlog: Backlog) -> None:
    backlog.take(room(total=2), 9)
    assert backlog.ids == {2, 3, 4}


def test_takes_the_room_too(backlog: Backlog) -> None:
    there_is = room(total=2)
    backlog.take(there_is, 9)
    assert not there_is


def test_what_is_given_back_comes_first_again(backlog: Backlog) -> None:
    backlog.give_back(backlog.take(room(total=3), 9))
    assert ids(backlog.take(room(total=9), 9)) == [5, 1, 2, 3, 4]


def test_is_replaced_by_what_is_filled_in(backlog: Backlog) -> None:
    backlog.fill([candidate(9)])
    assert ids(backlog.take(room(total=9), 9)) == [9]


def test_forgets_what_is_cleared(backlog: Backlog) -> None:
    backlog.clear()
    assert len(backlog) == 0
    assert backlog.take(room(total=9), 9) == []
