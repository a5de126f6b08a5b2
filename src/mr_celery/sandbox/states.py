"""A job's states on the server, and what leads from one to the next (product documentation)."""

from __future__ import annotations

from ..errors import MrCeleryError

PENDING, RUNNING = "pending", "running"
CLOSED = ("done", "failed", "escalated")
STATUSES = (PENDING, RUNNING, *CLOSED)

_ALLOWED: dict[str, tuple[str, ...]] = {
    "claim": (PENDING,),
    "close": (RUNNING,),
    "abort": (PENDING, RUNNING),
    "requeue": (RUNNING, *CLOSED),
}


class TransitionError(MrCeleryError):
    """The job's state does not allow what was asked for (409)."""


def following(status: str, action: str, *, closed_as: str = "done") -> str:
    """The status that ``action`` leads to.

    Args:
        status: the job's status now.
        action: ``claim``, ``close``, ``abort`` or ``requeue``.
        closed_as: for ``close``: done, failed or escalated.

    Raises:
        TransitionError: the action is not possible in that status.
    """
    if status not in _ALLOWED[action]:
        raise TransitionError(f"cannot {action} a job that is {status}")
    return {"claim": RUNNING, "close": closed_as, "abort": "failed", "requeue": PENDING}[action]
