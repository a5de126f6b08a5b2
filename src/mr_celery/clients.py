"""The clients of a process for the ledger, the server and the spool, made on first use from its settings."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from .delivery import DELIVERY_LEASE, USUAL_RATE, Delivery
from .errors import WorkerError
from .ledger import Fleet, Ledger, TokenRefusals
from .server import Api
from .server.api import job_address
from .server.token import TokenFile
from .server.transport import MIN_RATE
from .settings import Settings, read_token, require
from .spool import Spool, spool_of

T = TypeVar("T")

MOST_OTHERS = 16
"""Maximum number of cached ledgers for worker names outside the settings. The bridge may have more names."""


class Clients:
    """The clients of one application in this process. A forked child makes its own.

    Methods use the worker name in the settings unless another one is given.

    Args:
        settings: the settings.
        ledger_timeout: seconds until a ledger step times out.
        on_error: called with the error of each failed request to the server.
        on_success: called after each successful request to the server.
        shares_refusals: whether processes share a refused token's state, so that it is retried only occasionally.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        ledger_timeout: float = 5.0,
        on_error: Callable[[WorkerError], object] = lambda error: None,
        on_success: Callable[[], object] = lambda: None,
        shares_refusals: bool = True,
    ) -> None:
        self._shares_refusals = shares_refusals
        self.settings = settings
        self._ledger_timeout = ledger_timeout
        self._on_error = on_error
        self._on_success = on_success
        names = {settings.name, *(each.name for each in settings.workers)}
        here = settings.delivery == "worker"
        self._delivers = {name: here and bool(settings.token_of(name)) for name in names}
        self._delivers_others = here and bool(settings.token)
        self._made: dict[tuple[Any, ...], Any] = {}
        self._others: dict[str, Ledger] = {}
        self._lock = threading.RLock()  # making one client may require another

    def _once(self, kind: str, make: Callable[..., T], *args: Any) -> T:
        """The object that ``make`` returns for these arguments. It is made once in each process."""
        key = (kind, os.getpid(), *args)
        made: T | None = self._made.get(key)  # without the lock, because nothing is ever removed
        if made is None:
            with self._lock:
                made = self._made.get(key)
                if made is None:
                    made = self._made[key] = make(*args)
        return made

    def _name(self, worker_name: str | None) -> str:
        return self.settings.name if worker_name is None else worker_name

    def ledger(self, worker_name: str | None = None) -> Ledger:
        """The ledger of a worker name.

        Raises:
            SettingsError: no ledger is configured.
        """
        name = self._name(worker_name)
        if name in self._delivers:
            return self._once("ledger", self.new_ledger, name)
        with self._lock:
            ledger = self._others.pop(name, None) or self.new_ledger(name)
            self._others[name] = ledger  # the last one used
            if len(self._others) > MOST_OTHERS:
                self._others.pop(next(iter(self._others)))
            return ledger

    def new_ledger(self, worker_name: str) -> Ledger:
        """A new ledger, which is not cached.

        Raises:
            SettingsError: no ledger is configured.
        """
        url, settings = require(self.settings, "ledger_url"), self.settings
        return Ledger(
            url,
            worker_name,
            prefix=settings.ledger_prefix,
            replicas=settings.ledger_replicas,
            history=settings.history,
            timeout=self._ledger_timeout,
        )

    def has_name(self, worker_name: str) -> bool:
        """Whether a worker name is in the settings. Anybody who can write to the broker can make up others."""
        return worker_name in self._delivers

    def ledgers(self) -> list[Ledger]:
        """The ledgers of all worker names in the settings.

        Raises:
            SettingsError: no ledger is configured.
        """
        return [self.ledger(each.name) for each in self.settings.each()]

    def neighbours(self) -> list[Ledger]:
        """The ledgers of the other worker names on the same fleet.

        Raises:
            SettingsError: no ledger is configured.
        """
        return [self.ledger(name) for name in self.settings.neighbours]

    def fleet(self) -> Fleet:
        """The online workers and bridges.

        Raises:
            SettingsError: no ledger is configured.
        """
        return self._once("fleet", self._new_fleet)

    def _new_fleet(self) -> Fleet:
        url = require(self.settings, "ledger_url")
        return Fleet(url, prefix=self.settings.ledger_prefix, timeout=self._ledger_timeout)

    def api(self, worker_name: str | None = None) -> Api:
        """The client of the server for a worker name.

        Raises:
            SettingsError: the worker name has no token.
        """
        return self._once("api", self._new_api, self._name(worker_name), MIN_RATE)

    def run_api(self, worker_name: str) -> Api:
        """The client of the server for runs. Slow responses time out early, because a run occupies a worker's slot.

        Raises:
            SettingsError: the worker name has no token.
        """
        return self._once("api", self._new_api, worker_name, USUAL_RATE)

    def _new_api(self, name: str, min_rate: float) -> Api:
        path = self.settings.token_file_of(name)
        settings = replace(self.settings, name=name, token=self.settings.token_of(name), token_file=path)
        return Api(
            settings.url,
            TokenFile(path, read_token) if path else require(settings, "token"),
            name,
            timeout=settings.timeout,
            on_error=self._on_error,
            on_success=self._on_success,
            refusals=(
                self._once("refusals", self._new_refusals, name)
                if self._shares_refusals and settings.ledger_url
                else None
            ),
            min_rate=min_rate,
        )

    def _new_refusals(self, worker_name: str) -> TokenRefusals:
        return TokenRefusals(self.ledger(worker_name))

    def delivery(self, worker_name: str) -> Delivery:
        """The delivery to the server for a worker name, for runs.

        Raises:
            SettingsError: the worker name has no token, or no ledger is configured.
        """
        return self._once("delivery", self._new_delivery, worker_name)

    def _new_delivery(self, worker_name: str) -> Delivery:
        return Delivery(
            self.run_api(worker_name),
            self.ledger(worker_name),
            spool=lambda: self.spool(worker_name),
            lease=min(DELIVERY_LEASE, self.settings.lease),
            without_artifacts=self.settings.without_artifacts,
        )

    def spool(self, worker_name: str | None = None) -> Spool | None:
        """The spool of a worker name, or ``None`` if none is set.

        Raises:
            SettingsError: a package that it needs is not installed.
        """
        if not self.settings.spool_url:
            return None
        return self._once("spool", self._new_spool, self._name(worker_name))

    def _new_spool(self, name: str) -> Spool | None:
        return spool_of(self.settings, name)

    def delivers(self, worker_name: str) -> bool:
        """Whether this process, and not the bridge, delivers the outcomes of a worker name."""
        return self._delivers.get(worker_name, self._delivers_others)

    def output_of(self, worker_name: str, job_id: int) -> str:
        """The address of a job's output, or the command that shows it if this process does not deliver outcomes."""
        if self.delivers(worker_name):
            return job_address(self.settings.url, job_id)
        return f"on the server (see celery -A proj modelreins jobs {job_id})"
