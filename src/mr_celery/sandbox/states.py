"""Job states on the server and their transitions, from the product documentation."""

from __future__ import annotations

from ..errors import MrCeleryError

AWAITING, PENDING, RUNNING = "awaiting_approval", "pending", "running"
OPEN = (AWAITING, PENDING, RUNNING)

CLOSED = ("done", "failed", "escalated")
"""The statuses with which a worker closes a job. The server may have other words for them."""

_OVER = "over"
"""Any status that is not in :data:`OPEN`."""

_ALLOWED: dict[str, tuple[str, ...]] = {
    "claim": (PENDING,),
    "close": (RUNNING,),
    "abort": OPEN,
    "requeue": (RUNNING, _OVER),
    "retry": (_OVER,),
    "approve": (AWAITING,),
    "reject": (AWAITING,),
}


class TransitionError(MrCeleryError):
    """The job's state does not allow the action (409)."""


def check(status: str, action: str) -> None:
    """Check that an action is allowed in a status.

    Args:
        status: the current status.
        action: ``claim``, ``close``, ``abort``, ``requeue``, ``retry``, ``approve`` or ``reject``.

    Raises:
        TransitionError: the action is not allowed in this status.
    """
    if (status if status in OPEN else _OVER) not in _ALLOWED[action]:
        raise TransitionError(f"cannot {action} a job that is {status.replace('_', ' ')}")
