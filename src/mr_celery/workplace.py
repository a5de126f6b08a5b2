"""What a process needs to work on jobs: the ledgers and the server, made when first needed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from .client import Api
from .delivery import HOLD_SECONDS, Delivery, Stores
from .ledger import Fleet, Ledger
from .settings import Settings, require
from .spool import Spool, spool_of

T = TypeVar("T")


class Workplace:
    """One application's connections in this process; a forked child makes its own.

    Args:
        settings: the settings.
        ledger_timeout: seconds that one step of the ledger may take.
    """

    def __init__(self, settings: Settings, *, ledger_timeout: float = 5.0) -> None:
        self.settings = settings
        self._ledger_timeout = ledger_timeout
        self._made: dict[tuple[Any, ...], Any] = {}
        self._lock = threading.Lock()

    def _once(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        key = (os.getpid(), *key)
        with self._lock:
            if key not in self._made:
                self._made[key] = make()
            made: T = self._made[key]
            return made

    def ledger(self, worker: str) -> Ledger:
        """The ledger of a worker name.

        Raises:
            SettingsError: no ledger is configured.
        """
        url = require(self.settings, "ledger_url")
        return self._once(
            ("ledger", worker),
            lambda: Ledger(url, worker, history=self.settings.history, timeout=self._ledger_timeout),
        )

    def fleet(self) -> Fleet:
        """The register of online workers.

        Raises:
            SettingsError: no ledger is configured.
        """
        url = require(self.settings, "ledger_url")
        return self._once(("fleet",), lambda: Fleet(url, timeout=self._ledger_timeout))

    def api(self, worker: str) -> Api:
        """The server, on behalf of a worker name.

        Raises:
            SettingsError: there is no token.
        """
        settings = replace(self.settings, name=worker, token=self.settings.token_of(worker))
        token = require(settings, "token")
        return self._once(("api", worker), lambda: Api(settings.url, token, worker, timeout=settings.timeout))

    def delivery(self, worker: str) -> Delivery:
        """The delivery to the server, on behalf of a worker name.

        Raises:
            SettingsError: there is no token or no ledger.
        """
        api, ledger, spool = self.api(worker), self.ledger(worker), self.spool(worker)
        hold = min(HOLD_SECONDS, self.settings.lease)
        return self._once(("delivery", worker), lambda: Delivery(api, ledger, Stores(ledger, spool), hold_seconds=hold))

    def spool(self, worker: str) -> Spool | None:
        """The spool of a worker name; ``None`` where none is set.

        Raises:
            SettingsError: what it needs is not installed.
        """
        return self._once(("spool", worker), lambda: spool_of(self.settings, worker))

    def delivers(self, worker: str) -> bool:
        """Whether outcomes of a worker name are delivered from this process, and not by the bridge."""
        return self.settings.delivery == "worker" and bool(self.settings.token_of(worker))
