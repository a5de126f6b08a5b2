"""The outages that all loops of a process share: of the server, the ledger and the broker."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import WorkerError
from ..settings import Settings
from ..settings.redis_address import shown
from ..telemetry.outages import Outage

logger = logging.getLogger("mr_celery.bridge")


@dataclass(frozen=True)
class Outages:
    """The outages of the services that a bridge depends on.

    Args:
        server: of the ModelReins server.
        ledger: of the ledger's Redis.
        broker: of the Celery broker.
    """

    server: Outage
    ledger: Outage
    broker: Outage

    @property
    def waiting_for(self) -> list[str]:
        """The names of those that have not answered since the start."""
        return [each.what for each in (self.server, self.ledger, self.broker) if not each.answered]

    def of(self, error: Exception) -> Outage:
        """The outage to which a failure of a request to server or ledger belongs."""
        return self.server if isinstance(error, WorkerError) else self.ledger

    def server_failed(self, error: WorkerError) -> None:
        """Record a failed request to the server. A definite refusal shows that the server works.

        A missing inbox route counts as an outage: the address is not that of a ModelReins server, or its path is wrong.
        Other missing routes count neither way.
        """
        if error.unauthorized:
            self.server.works()
            return
        missing = error.status in (404, 405)
        if error.status is None or error.status >= 500 or error.fault or (missing and error.route == "inbox"):
            self.server.failed(error.summary)
        elif not missing:
            self.server.works()


def outages_of(settings: Settings, app: Any, *, clock: Callable[[], float] = time.monotonic) -> Outages:
    """The outages of the bridges with these settings.

    Args:
        settings: the settings.
        app: the Celery application.
        clock: monotonic seconds.
    """
    stops = {
        f"the server at {settings.url}": "No job is claimed, and outcomes wait in the ledger",
        f"the ledger at {shown(settings.ledger_url)}": "No job is claimed or delivered; running handlers continue",
        f"the broker at {broker_address(app)}": "Claimed jobs wait until their messages can be published",
    }
    return Outages(*(Outage(what, sentence, logger, clock=clock) for what, sentence in stops.items()))


def broker_address(app: Any) -> str:
    """The address of an application's broker, without user and password; the first one of several."""
    url: Any = app.conf.broker_write_url or app.conf.broker_url or "amqp://localhost"
    first = url if isinstance(url, str) else next(iter(url), "")
    return shown(str(first).split(";")[0])
