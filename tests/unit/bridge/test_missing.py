"""What it means that jobs in flight are not in the server's lists."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from mr_celery.bridge.sync import MISSES, MISSES_IN_EMPTY, Missing, missing

IN_FLIGHT = {1: "running", 2: "sent"}


@pytest.mark.parametrize(
    ("in_flight", "running", "pending", "earlier", "misses", "aborted"),
    [
        pytest.param({}, set(), set(), {}, {}, set(), id="nothing in flight"),
        pytest.param({}, {1}, {2}, {3: 1}, {}, set(), id="nothing in flight any more"),
        pytest.param(IN_FLIGHT, {1, 2}, set(), {}, {}, set(), id="all running"),
        pytest.param(IN_FLIGHT, {1}, {2}, {}, {}, set(), id="pending counts as listed"),
        pytest.param(IN_FLIGHT, set(), {1, 2}, {}, {}, set(), id="all pending"),
        pytest.param(IN_FLIGHT, {1}, set(), {}, {2: 1}, set(), id="first miss"),
        pytest.param(IN_FLIGHT, {1}, set(), {2: 1}, {2: 2}, {2}, id="second miss"),
        pytest.param(IN_FLIGHT, {1}, set(), {2: 5}, {2: 6}, {2}, id="many misses"),
        pytest.param(IN_FLIGHT, {1, 2}, set(), {2: 1}, {}, set(), id="listed again resets the misses"),
        pytest.param(IN_FLIGHT, {1}, {2}, {2: 1}, {}, set(), id="pending again resets the misses"),
        pytest.param(IN_FLIGHT, {7}, set(), {1: 1}, {1: 2, 2: 1}, {1}, id="each job has its own misses"),
        pytest.param(IN_FLIGHT, {7}, set(), {1: 1, 2: 1}, {1: 2, 2: 2}, {1, 2}, id="all aborted"),
        pytest.param(IN_FLIGHT, set(), {7}, {1: 1, 2: 1}, {1: 2, 2: 2}, {1, 2}, id="a pending job makes a list, too"),
        pytest.param(IN_FLIGHT, set(), set(), {1: 1, 2: 1}, {1: 2, 2: 2}, set(), id="two empty lists mean nothing"),
        pytest.param(IN_FLIGHT, set(), set(), {1: 2, 2: 2}, {1: 3, 2: 3}, set(), id="nor do three"),
        pytest.param(IN_FLIGHT, set(), set(), {1: 3, 2: 2}, {1: 4, 2: 3}, {1}, id="four empty lists do"),
        pytest.param(IN_FLIGHT, {7}, set(), {9: 5}, {1: 1, 2: 1}, set(), id="misses of ended jobs are forgotten"),
        pytest.param({1: "admitted"}, {7}, set(), {1: 9}, {}, set(), id="an admitted job may not be claimed yet"),
        pytest.param({1: "claimed"}, {7}, set(), {1: 1}, {1: 2}, {1}, id="a claimed job is expected"),
        pytest.param({1: "finished"}, {7}, set(), {1: 1}, {1: 2}, {1}, id="a finished job is expected until closed"),
    ],
)
def test_jobs_count_as_aborted_after_enough_misses_in_a_row(
    in_flight: Mapping[int, str],
    running: set[int],
    pending: set[int],
    earlier: Mapping[int, int],
    misses: Mapping[int, int],
    aborted: set[int],
) -> None:
    assert missing(in_flight, running, pending, earlier, trusted=True) == Missing(misses, frozenset(aborted))


@pytest.mark.parametrize("earlier", [{}, {1: 1, 2: 1}, {1: 99, 2: 99}])
@pytest.mark.parametrize(("running", "pending"), [(set(), set()), ({7}, set()), (set(), {7})])
def test_a_list_that_never_showed_one_of_ours_means_nothing(
    running: set[int], pending: set[int], earlier: dict[int, int]
) -> None:
    assert missing(IN_FLIGHT, running, pending, earlier, trusted=False) == Missing({}, frozenset())


@pytest.mark.parametrize(("running", "answers"), [({7}, MISSES), (set(), MISSES_IN_EMPTY)], ids=["some", "empty"])
def test_a_job_is_aborted_in_exactly_that_answer_which_is_one_too_many(running: set[int], answers: int) -> None:
    earlier: Mapping[int, int] = {}
    aborted = []
    for _ in range(answers):
        found = missing({1: "running"}, running, set(), earlier, trusted=True)
        earlier = found.misses
        aborted.append(set(found.aborted))

    assert aborted == [set()] * (answers - 1) + [{1}]


def test_the_earlier_misses_are_not_changed() -> None:
    earlier = {1: 1}

    missing(IN_FLIGHT, {7}, set(), earlier, trusted=True)

    assert earlier == {1: 1}
