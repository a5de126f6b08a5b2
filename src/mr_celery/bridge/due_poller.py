"""Polls the ledger once a second and wakes the loops that have work."""

from __future__ import annotations

from collections.abc import Mapping

from .capacity import Surveys
from .context import BridgeContext
from .loops import Loop


class DuePoller:
    """Wakes a loop when a job is due in a state that the loop is responsible for.

    An idle bridge therefore sends one command a second to the ledger, instead of one for each state. The poller never
    waits for anything else, so a busy loop does not delay the others.

    Args:
        context: the objects that the loops share.
        loops: the loop that handles the due jobs of each state.
        surveys: gets the survey that each poll brings.
    """

    def __init__(self, context: BridgeContext, loops: Mapping[str, Loop], surveys: Surveys) -> None:
        self._context = context
        self._surveys = surveys
        self._loops = loops

    def run_once(self) -> float:
        """Poll once. Returns the seconds until the next poll.

        Raises:
            LedgerUnavailable: the ledger is unreachable.
        """
        lease = self._context.settings.lease
        due, survey = self._context.ledger.watch(self._surveys.queues, lease=lease)
        self._context.outages.ledger.works()
        self._surveys.note(self._context.ledger.worker_name, survey)
        for loop in {loop for state, loop in self._loops.items() if due[state]}:
            loop.call()
        return min(1.0, lease / 10)
