"""Coordination of the processes that share a ledger: turns, checks, shared knowledge, heartbeats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from typing import Any

from .fleet import Heartbeats
from .records import IN_FLIGHT, BridgeProcess, Missed, Pause, Registration, Survey, Unstarted
from .scripts import LedgerBase


class Coordination(LedgerBase):
    """Turns, checks, shared knowledge and heartbeats of processes."""

    # -- one caller at a time ------------------------------------------------------------------------

    def my_turn(self, what: str, seconds: float) -> bool:
        """Whether this caller may do ``what`` now. Other callers may not for ``seconds``."""
        return bool(self._run("turn", "", what, seconds))

    def take(self, state: str, limit: int = 100, *, lease: float) -> list[int]:
        """Take up to ``limit`` *admitted* or *claimed* jobs that are due. Other callers do not get them for
        ``lease`` seconds."""
        return [int(job_id) for job_id in self._run("take", "", state, limit, lease)]

    def unstarted(
        self, limit: int = 200, *, lease: float, overtaken_seconds: float, silent_seconds: float
    ) -> list[Unstarted]:
        """Take up to ``limit`` messages that no worker has reported for a while. Other callers do not get them for
        ``lease`` seconds.

        Args:
            limit: the number of messages.
            lease: seconds until each is due again, unless it is started.
            overtaken_seconds: a message counts as overtaken once one sent this many seconds later has started.
            silent_seconds: seconds without a start in the queue after which a message's own age decides.
        """
        answer = self._run("unstarted", "", limit, lease, overtaken_seconds, silent_seconds)
        return [Unstarted.read(each) for each in answer]

    # -- checks for lost runs ------------------------------------------------------------------------

    def lost(self, limit: int = 100, *, lease: float) -> list[int]:
        """Up to ``limit`` runs whose lease has expired, and up to ``limit`` deferred jobs past their deadline.

        :meth:`lose` decides about each. The list is empty for half a ``lease`` (seconds) after a gap in these checks:
        the ledger was unreachable, so the workers could not renew their leases either.
        """
        return [int(job_id) for job_id in self._check_leases("lost", lease, limit)]

    def watch(self, queues: Sequence[str] = (), *, lease: float) -> tuple[Mapping[str, int], Survey]:
        """Count the jobs whose next check is due, by state.

        It counts as a check for lost runs, as :meth:`lost` does. While :meth:`lost` lists nothing after a gap, the
        counts of *running* and *deferred* are 0.

        Returns:
            The counts, and a survey with the load of the queues.
        """
        due, survey = self._check_leases("watch", lease, *queues)
        return dict(zip(IN_FLIGHT, map(int, due), strict=True)), Survey.read(survey, queues)

    def _check_leases(self, name: str, lease: float, *arguments: object) -> Any:
        return self._script(("record", "known_work", "grace", "surveying", name), "", (lease, *arguments))

    # -- shared knowledge of the server --------------------------------------------------------------

    def missed(self, job_ids: Iterable[int]) -> dict[int, Missed]:
        """Count the comparisons in a row in which the server's lists lacked these jobs. Returns the counts."""
        named = list(job_ids)
        answer = self._run("missed", "", *named)
        return {job_id: Missed(int(answer[2 * i]), float(answer[2 * i + 1])) for i, job_id in enumerate(named)}

    def note_route(self, url: str, route: str, *, missing: bool) -> Missed:
        """Record whether a server has a route: it accepted a request, or denied that the route exists.

        Args:
            url: the server's address.
            route: ``upload`` or ``review``.
            missing: whether it denied that the route exists.

        Returns:
            The number of such responses in a row, and the seconds since the first; 0 once the route has worked.
        """
        times, seconds = self._run("note_route", "", route, url, int(missing))
        return Missed(int(times), float(seconds))

    def note_registration(self, registration: Registration) -> None:
        """Store the worker name's registration on the server, until the next one."""
        with self._redis.client() as client:
            client.set(f"{self._prefix}registered", registration.to_json())

    def registered(self) -> Registration | None:
        """The last registration of the worker name; ``None`` if it is not known."""
        with self._redis.client() as client:
            stored = client.get(f"{self._prefix}registered")
        return Registration.from_json(stored) if stored else None

    # -- pausing -------------------------------------------------------------------------------------

    def pause(self, pause: Pause) -> None:
        """Pause claiming for all bridges, until :meth:`resume`."""
        self._run("pause", "", pause.to_json())

    def resume(self) -> bool:
        """Resume claiming. Returns whether it was paused."""
        return bool(self._run("resume", ""))

    # -- bridges online ------------------------------------------------------------------------------

    @cached_property
    def _bridges(self) -> Heartbeats:
        return Heartbeats(self._redis, f"{self._prefix}bridges", f"{self._prefix}bridges_online")

    def announce_bridge(self, bridge: BridgeProcess, *, seconds: float) -> None:
        """Announce a bridge as online, for ``seconds`` from now."""
        self._bridges.announce(bridge.id, asdict(bridge), seconds=seconds)

    def withdraw_bridge(self, bridge_id: str) -> None:
        """Remove a bridge that has stopped."""
        self._bridges.withdraw(bridge_id)

    def bridges(self) -> list[BridgeProcess]:
        """The bridges that are online. One whose announcement cannot be read is left out."""
        found = []
        for about in self._bridges.online():
            with suppress(TypeError, ValueError, KeyError):
                found.append(BridgeProcess.read(about))
        return sorted(found, key=lambda each: each.id)
