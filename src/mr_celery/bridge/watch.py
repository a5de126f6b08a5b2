"""The watch: polls the ledger for due jobs and for workers that can run something new, and wakes loops with work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..ledger import Nodes
from .capacity import FleetReader, Surveys
from .context import BridgeContext
from .limits import CHECK_SECONDS
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
        return min(CHECK_SECONDS, lease / 10)


class FleetWatch:
    """Wakes the loops that claim when workers with new tasks or queues come online.

    Otherwise, jobs that wait for such a worker would also have to wait for the next poll of the inbox.

    Args:
        fleet: reads the online workers.
        loops: the loops that claim.
    """

    def __init__(self, fleet: FleetReader, loops: Sequence[Loop]) -> None:
        self._fleet = fleet
        self._loops = loops
        self._nodes = Nodes()

    def run_once(self) -> float:
        """Check once. Returns the seconds until the next check.

        Raises:
            LedgerUnavailable: the ledger is unreachable.
        """
        nodes = self._fleet.nodes(max_age=CHECK_SECONDS / 2)
        if nodes is not self._nodes:
            before, self._nodes = _abilities(self._nodes), nodes
            if _abilities(nodes) - before:
                for loop in self._loops:
                    loop.call()
        return CHECK_SECONDS


def _abilities(nodes: Nodes) -> set[tuple[tuple[str, ...], tuple[str, ...]]]:
    return {(kind.queues, kind.tasks) for kind in nodes.kinds}
