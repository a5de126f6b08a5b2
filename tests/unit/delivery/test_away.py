"""When a worker stops waiting for a server that is away."""

from __future__ import annotations

import pytest

from mr_celery.delivery import Away
from mr_celery.delivery.away import FAILURES, SECONDS
from mr_celery.errors import WorkerError
from support.ledgers import Clock, refusal


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def away(clock: Clock) -> Away:
    return Away(clock)


def learn(away: Away, *errors: WorkerError | None) -> None:
    for error in errors:
        away.learn(error)


def test_a_server_of_which_nothing_is_known_is_not_away(away: Away) -> None:
    assert not away.likely


@pytest.mark.parametrize("status", [None, 401, 403, 429, 500, 503])
def test_a_server_whose_troubles_put_off_delivery_after_delivery_is_away(away: Away, status: int | None) -> None:
    learn(away, *[refusal(status)] * (FAILURES - 1))
    assert not away.likely
    learn(away, refusal(status))
    assert away.likely


@pytest.mark.parametrize("status", [400, 404, 409, 410, 413])
def test_what_is_wrong_with_single_jobs_says_nothing_of_the_server(away: Away, status: int) -> None:
    learn(away, *[refusal(status)] * (FAILURES + 1))
    assert not away.likely


def test_a_delivery_that_gets_through_begins_the_count_anew(away: Away) -> None:
    for _ in range(3):
        learn(away, *[refusal(503)] * (FAILURES - 1), None)
    assert not away.likely


def test_a_refusal_of_a_single_job_does_not_end_the_row(away: Away) -> None:
    learn(away, *[refusal(503)] * (FAILURES - 1), refusal(413), refusal(503))
    assert away.likely


def test_after_a_while_one_delivery_tries_it_again(away: Away, clock: Clock) -> None:
    learn(away, *[refusal(503)] * FAILURES)
    clock.advance(SECONDS - 0.1)
    assert away.likely
    clock.advance(0.1)
    assert not away.likely
    learn(away, refusal(503))
    assert away.likely
    clock.advance(SECONDS)
    learn(away, None, refusal(503))
    assert not away.likely
