"""The pending jobs that a bridge knows of and has not claimed yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from .candidates import Candidate, urgency
from .capacity import Room


class Backlog:
    """The candidates of the last look into the inbox, the most urgent first.

    They are kept apart by queue, so that those of a full queue need not be passed over again and again.
    """

    def __init__(self) -> None:
        self._queues: dict[str, deque[Candidate]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    @property
    def ids(self) -> set[int]:
        """The jobs."""
        return {candidate.job.id for queue in self._queues.values() for candidate in queue}

    def fits(self, room: Room) -> bool:
        """Whether there is room for any of them."""
        return any(queue and room.has(name) for name, queue in self._queues.items())

    def fill(self, candidates: Iterable[Candidate]) -> None:
        """Replace what there is by ``candidates``, which come in the order in which they are to be claimed."""
        self._queues = {}
        for candidate in candidates:
            self._queues.setdefault(candidate.route.queue, deque()).append(candidate)

    def clear(self) -> None:
        """Forget them all."""
        self._queues = {}

    def take(self, room: Room, most: int) -> list[Candidate]:
        """Take up to ``most`` candidates for which there is room, the most urgent first; the room is taken, too."""
        taken: list[Candidate] = []
        while len(taken) < most:
            heads = [queue for name, queue in self._queues.items() if queue and room.has(name)]
            if not heads:
                break
            first = min(heads, key=lambda queue: urgency(queue[0].job)).popleft()
            room.take(first.route.queue)
            taken.append(first)
        return taken

    def give_back(self, candidates: Sequence[Candidate]) -> None:
        """Put back what was taken, in the order in which it was taken."""
        for candidate in reversed(candidates):
            self._queues.setdefault(candidate.route.queue, deque()).appendleft(candidate)
