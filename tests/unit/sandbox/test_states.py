"""The job state machine: every action in every status."""

from __future__ import annotations

import pytest

from mr_celery.sandbox.states import CLOSED, OPEN, TransitionError, check

ALLOWED = {
    "claim": {"pending"},
    "close": {"running"},
    "abort": {"awaiting_approval", "pending", "running"},
    "requeue": {"running", "done", "failed", "escalated", "cancelled"},
    "retry": {"done", "failed", "escalated", "cancelled"},
    "approve": {"awaiting_approval"},
    "reject": {"awaiting_approval"},
}


@pytest.mark.parametrize("action", ALLOWED)
@pytest.mark.parametrize("status", [*OPEN, *CLOSED, "cancelled"])
def test_action_in_status(status: str, action: str) -> None:
    if status in ALLOWED[action]:
        check(status, action)
    else:
        with pytest.raises(TransitionError, match=f"cannot {action} a job that is {status.replace('_', ' ')}"):
            check(status, action)


def test_unknown_action() -> None:
    with pytest.raises(KeyError):
        check("pending", "explode")
