"""The job state machine, as a table: every status, every action."""

from __future__ import annotations

import pytest

from mr_celery.sandbox.states import CLOSED, STATUSES, TransitionError, following

TABLE = {
    "claim": {"pending": "running"},
    "close": {"running": "done"},
    "abort": {"pending": "failed", "running": "failed"},
    "requeue": {"running": "pending", "done": "pending", "failed": "pending", "escalated": "pending"},
}


@pytest.mark.parametrize("action", TABLE)
@pytest.mark.parametrize("status", STATUSES)
def test_each_action_in_each_status(status: str, action: str) -> None:
    expected = TABLE[action].get(status)
    if expected is None:
        with pytest.raises(TransitionError, match=f"cannot {action} a job that is {status}"):
            following(status, action)
    else:
        assert following(status, action) == expected


@pytest.mark.parametrize("status", CLOSED)
def test_a_running_job_closes_as_what_the_worker_says(status: str) -> None:
    assert following("running", "close", closed_as=status) == status


def test_an_unknown_action_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(KeyError):
        following("pending", "explode")
