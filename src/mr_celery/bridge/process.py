"""The bridges of one process: one for each worker name, on a shared fleet."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..settings import Settings
from .bridge import Bridge
from .limits import CHECK_SECONDS
from .shared import Shared

logger = logging.getLogger("mr_celery.bridge")


def bridges_of(app: Any, settings: Settings) -> list[Bridge]:
    """Create a bridge for each worker name of the settings.

    Raises:
        SettingsError: as :class:`Bridge` does.
        RoutingError: as :class:`Bridge` does.
    """
    if settings.output_warning:
        logger.warning("%s", settings.output_warning)
    shared = Shared(app, settings)
    return [Bridge(app, each, shared) for each in settings.each()]


def run(bridges: Sequence[Bridge], stop: threading.Event) -> None:
    """Run bridges until ``stop`` is set, then stop them all at the same time.

    Raises:
        SettingsError: the ledger's Redis is too old, or the ledger has another version.
    """
    for bridge in bridges:
        bridge.start()
    # The system may deliver a signal to another thread, which does not wake this one. Only this one can handle it.
    while not stop.wait(CHECK_SECONDS):
        pass
    deadline = time.monotonic() + max(bridge.context.settings.shutdown_timeout for bridge in bridges)
    for bridge in bridges:
        bridge.stop_claiming()
    with ThreadPoolExecutor(min(16, len(bridges))) as pool:
        list(pool.map(lambda bridge: bridge.stop(deadline), bridges))
