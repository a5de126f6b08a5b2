"""When to look into the inbox again: decisions without I/O."""

from __future__ import annotations

LEAST_SECONDS = 0.1
"""Seconds between two looks at the least, however fast jobs come."""

MARGIN = 0.1
"""By which part of the pace the looks move back when they came just too early."""

FIRST_STEP = 0.01
STEP_GROWTH = 1.5
MOST_STEP = 0.5
"""By which part of the pace a look in step comes earlier: the first one, how it grows with each, at most."""

MEMORY = 0.9
"""What a job counts in the pace, compared with the job after it."""


class Rhythm:
    """The pace of the looks, and where between two arrivals they fall.

    Looks follow each other in the pace in which jobs come, so there is about one look for each job. Where jobs come
    regularly, the looks move to the moment just after an arrival: as long as each finds one job, the next comes a
    little earlier, in growing steps. One that finds none came just too early: the next comes a pace and a tenth later,
    finds two jobs, and is in step again. So most jobs wait less than a tenth of the pace, and about one in five waits
    a whole one; where jobs come at random, they wait half a pace.

    The pace is measured from one such slip to the next, since it is known then where between two arrivals the looks
    fell. It is the poll interval at the most: fruitless looks lead back to it.

    Args:
        poll_interval: seconds between two looks at the most.
    """

    def __init__(self, poll_interval: float) -> None:
        self._poll_interval = poll_interval
        self._least = min(LEAST_SECONDS, poll_interval)
        self._pace = poll_interval
        self._step = FIRST_STEP
        self._behind = 0
        self._measured_at: float | None = None
        self._jobs = 0
        self._known_jobs = 0.0
        self._known_seconds = 0.0

    def found(self, count: int, now: float) -> float:
        """What a look found. Returns seconds from that look to the next; the poll interval if there is no rhythm.

        Args:
            count: how many jobs came since the look before.
            now: when it looked, in seconds.
        """
        self._jobs += count
        self._behind += 1 - count
        if self._behind == 0:
            seconds = self._pace * (1.0 - self._step)
            self._step = min(MOST_STEP, self._step * STEP_GROWTH)
        else:
            self._measure(now)
            self._step = FIRST_STEP
            seconds = self._pace
            if self._behind == 1:
                seconds *= 1.0 + MARGIN
            else:
                self._behind = 0  # they come in another pace by now
        return min(self._poll_interval, max(self._least, seconds))

    def _measure(self, now: float) -> None:
        seconds = self._poll_interval if self._measured_at is None else now - self._measured_at
        fading: float = MEMORY ** max(1, self._jobs)
        self._known_jobs = self._known_jobs * fading + self._jobs
        self._known_seconds = self._known_seconds * fading + seconds
        self._measured_at, self._jobs = now, 0
        if self._known_seconds < self._poll_interval * self._known_jobs:
            self._pace = max(self._least, self._known_seconds / self._known_jobs)
        else:
            self._pace = self._poll_interval
            self._known_jobs = self._known_seconds = 0.0  # how long nothing came says nothing of what comes next
