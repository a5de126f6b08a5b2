"""The table of wake-ups: which change of a job's state wakes which loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from ..ledger import IN_FLIGHT

LoopName = Literal["claim", "courier", "reaper", "sync"]
Signal = Literal["due", "notification"]
Condition = Literal["always", "unless failing", "if a slot is wanted"]

T = TypeVar("T")


@dataclass(frozen=True)
class WakeUp:
    """One row of the table.

    Args:
        signal: ``due`` if the due poller found a job that is due in a state; ``notification`` if the ledger published
            the change.
        change: the state, or the notification.
        loop: the loop that handles the change.
        condition: ``always`` wakes the loop even during the pause after a failure; the others do not.
            ``if a slot is wanted`` wakes it only if a job, or the next poll, waits for a slot.
    """

    signal: Signal
    change: str
    loop: LoopName
    condition: Condition = "unless failing"


WAKE_UPS = (
    WakeUp("due", "admitted", "sync"),  # settle a claim with an unclear result
    WakeUp("due", "claimed", "reaper"),  # publish
    WakeUp("due", "sent", "reaper"),  # send again, if its message is lost
    WakeUp("due", "running", "reaper"),  # its lease has expired
    WakeUp("due", "deferred", "reaper"),  # its outcome has not come in time
    WakeUp("due", "finished", "courier"),  # deliver
    WakeUp("notification", "claimed", "reaper", "always"),
    WakeUp("notification", "deliver", "courier", "always"),
    WakeUp("notification", "resumed", "claim", "always"),
    # These changes free a slot.
    WakeUp("notification", "finished", "claim", "if a slot is wanted"),
    WakeUp("notification", "deliver", "claim", "if a slot is wanted"),
    WakeUp("notification", "deferred", "claim", "if a slot is wanted"),
    WakeUp("notification", "dropped", "claim", "if a slot is wanted"),
    WakeUp("notification", "aborted", "claim", "if a slot is wanted"),
)
"""All wake-ups. A state or notification that has no row wakes no loop."""


def loops_of_due_jobs(loops: Mapping[LoopName, T]) -> dict[str, T]:
    """Return the loop that handles the due jobs of each state in flight."""
    found = {each.change: loops[each.loop] for each in WAKE_UPS if each.signal == "due"}
    return {state: found[state] for state in IN_FLIGHT}


def of_notification(change: str, *, slot_wanted: bool) -> Iterator[WakeUp]:
    """The wake-ups that a notification causes.

    Args:
        change: the notification.
        slot_wanted: whether a job, or the next poll of the inbox, waits for a free slot.
    """
    for each in WAKE_UPS:
        excluded = each.condition == "if a slot is wanted" and not slot_wanted
        if each.signal == "notification" and each.change == change and not excluded:
            yield each
