"""Detects whether a server has the routes for artifacts and reviews, which older servers lack."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Literal

from ..errors import LedgerUnavailable, WorkerError
from ..ledger import Ledger
from ..server import Api, keep_nothing
from .giving_up import BOUNDS, Bound
from .texts import too_old

logger = logging.getLogger("mr_celery.delivery")

MISSING = (404, 405, 501)
"""Statuses of a server, or a proxy before it, that lacks the requested route."""

NOTED_SECONDS = 600.0
"""Seconds after which a working route is noted again, because the ledger may have lost the note."""


class ServerRoutes:
    """The routes for artifacts and reviews of one server.

    A route counts as missing if it never worked, and was missing in several consecutive deliveries over minutes while
    the server answered other requests with the same token. Each job still tries it, so that an updated server is
    noticed immediately.

    Args:
        api: the server.
        ledger: the ledger of the same worker name.
        without: the result of a job whose artifacts or reviews the server has no route for. ``fail`` fails the job,
            ``close`` closes it with the handler's status.
        bound: the consecutive deliveries, and their minimum duration, after which a route counts as missing.
        clock: monotonic clock in seconds.
    """

    def __init__(
        self,
        api: Api,
        ledger: Ledger,
        *,
        without: Literal["fail", "close"] = "fail",
        bound: Bound | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._ledger = ledger
        self.without = without
        self._bound = bound or BOUNDS["passes"]
        self._clock = clock
        self._noted: dict[str, float] = {}

    def works(self, route: str) -> None:
        """Note that the server accepted a request of a route (``upload``, ``review``)."""
        noted = self._noted.get(route)
        if noted is not None and self._clock() < noted + NOTED_SECONDS:
            return
        try:
            self._ledger.note_route(self._api.url, route, missing=False)
        except LedgerUnavailable as error:
            logger.debug("cannot record that the server has the route %s: %s", route, error)
        else:
            self._noted[route] = self._clock()

    def missing(self, error: WorkerError) -> bool:
        """Note that a route was missing while other requests were answered. Returns whether it now counts as missing.

        Raises:
            LedgerUnavailable: it could not be noted.
        """
        self._noted.pop(error.route, None)
        missed = self._ledger.note_route(self._api.url, error.route, missing=True)
        return missed.times >= self._bound.times and missed.seconds >= self._bound.seconds

    def surely_missing(self, error: WorkerError) -> bool:
        """Check that other requests are answered, then do as :meth:`missing`; ``False`` if they are not."""
        try:
            self._api.jobs("running", take=keep_nothing, about=())
            return self.missing(error)
        except (WorkerError, LedgerUnavailable):
            return False

    @staticmethod
    def explained(error: WorkerError) -> WorkerError:
        """The error, with the server version that has the route added to its message."""
        return too_old(error)
