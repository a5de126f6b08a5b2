"""The presence status of a worker name, on which its bridges agree."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from ..ledger import BridgeProcess

PresenceStatus = Literal["active", "busy", "idle"]


def presence_status(own: BridgeProcess | None, others: Iterable[BridgeProcess]) -> PresenceStatus:
    """The status that a bridge reports for its worker name.

    A router may read it to choose a worker, and all bridges of a worker name report under this one name. So the status
    is that of all of them together.

    Args:
        own: the bridge; ``None`` if it is about to end.
        others: the other bridges of the worker name that are online.

    Returns:
        ``active`` if any of them would claim a job now; else ``busy`` while one of them is online, since the jobs stay
        pending; ``idle`` if none is, or if the only ones are stopping and nothing is in flight.
    """
    online = [*([] if own is None else [own]), *others]
    if any(each.claims for each in online):
        return "active"
    return "busy" if any(not each.has_finished for each in online) else "idle"
