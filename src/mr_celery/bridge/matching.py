"""Finds the handlers of pending jobs, while a ``match=`` of the application may raise."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

from ..databases import close_old_connections
from ..handlers import Handler, MatchRaised, Registry
from ..job import Job
from .limits import ROUTING_SECONDS


class Matching:
    """Finds the handlers of the jobs of one poll after another.

    If a ``match=`` raises, its job waits for the next poll. Calls that raise may be slow, as while a database is
    unreachable. Once those of a handler have taken :data:`ROUTING_SECONDS` in a poll, it is not called again in that
    poll, so that the jobs of other handlers do not wait for it.

    Args:
        registry: the handlers.
        clock: monotonic seconds.
    """

    def __init__(self, registry: Registry, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self._clock = clock
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._last: dict[str, str] = {}

    def begin_poll(self) -> None:
        """Begin a poll: every ``match=`` is called again."""
        self._seconds.clear()

    def handler_of(self, job: Job) -> Handler:
        """The most specific handler that takes a job.

        Raises:
            RoutingError: no handler takes it, or two equally specific ones do.
            MatchRaised: a ``match=`` raised, or is not called again in this poll.
        """
        return self._registry.route(job, matches=self._matches)

    def _matches(self, handler: Handler, job: Job) -> bool:
        if self._seconds[handler.name] > ROUTING_SECONDS:
            raise MatchRaised(handler.name, self._last[handler.name])
        began = self._clock()
        try:
            return handler.matches(job)
        except MatchRaised as raised:
            close_old_connections()
            self._last[handler.name] = raised.why
            self._seconds[handler.name] += self._clock() - began
            raise
