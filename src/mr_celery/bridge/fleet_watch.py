"""Watches the online workers, and wakes the loops that claim."""

from __future__ import annotations

from collections.abc import Sequence

from ..ledger import Nodes
from .capacity import FleetReader
from .limits import CHECK_SECONDS
from .loops import Loop


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
