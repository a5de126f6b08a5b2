"""The bridges of one process: one for each worker name, side by side on one fleet."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..settings import Settings
from .bridge import Bridge

SIGNAL_SECONDS = 1.0
"""Seconds after which a signal is noticed at the latest."""


def bridges_of(app: Any, settings: Settings) -> list[Bridge]:
    """A bridge for each worker name that the settings are for.

    Raises:
        SettingsError: as :class:`Bridge` does.
        RoutingError: as :class:`Bridge` does.
    """
    return [Bridge(app, each) for each in settings.each()]


def run(bridges: Sequence[Bridge], told_to_stop: threading.Event) -> None:
    """Let bridges work until ``told_to_stop`` is set, and stop them all at once.

    Raises:
        SettingsError: the ledger's Redis is too old.
    """
    for bridge in bridges:
        bridge.start()
    while not told_to_stop.wait(SIGNAL_SECONDS):
        pass  # the system may hand a signal to another thread: that does not wake this one, which has to handle it
    with ThreadPoolExecutor(len(bridges)) as pool:
        list(pool.map(Bridge.stop, bridges))
