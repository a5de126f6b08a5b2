"""Crash points: places between two effects where a test can kill a process of the fleet with SIGKILL.

The effects are found in the code: every method of the ledger, of the server's client, of the publisher and of the spool
that changes something. There is a point before and after each. The package itself contains none of this: the test
application wraps these methods (:func:`install`) in the processes that import it.

A file in the folder ``CRASH_POINTS`` arms a point. The first process that passes the point removes the file and dies.
So each armed point kills one process once.
"""

from __future__ import annotations

import inspect
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Literal

from mr_celery.bridge.publisher import Publisher
from mr_celery.ledger import Ledger
from mr_celery.server import Api
from mr_celery.spool import Spool

When = Literal["before", "after"]
Victim = Literal["process", "node"]
"""``process``: the one that passes the point. ``node``: its process group, as a Celery worker with all its children."""

READS = {
    Ledger: {
        "attached",
        "blob",
        "bridges",
        "confirming_replicas",
        "deferring",
        "due",
        "ended",
        "eviction",
        "refused_token",
        "stats",
        "holds",
        "in_flight",
        "in_state",
        "inventory",
        "listed",
        "members",
        "nodes",
        "is_full",
        "listen",
        "may_notify",
        "outlines",
        "persists",
        "read",
        "registered",
        "server_version",
        "oldest",
        "snapshot",
        "events",
        "survey",
        "tally",
        "unlimited_in_container",
        "version",
        "would_be_second",
    },
    Api: {"job", "jobs"},
    Publisher: {"announce_abort", "close", "connect", "verify", "waiting"},
    Spool: {"entries", "free", "open"},
}
"""Methods that change nothing. All other public methods are effects."""

LAST = {
    "ledger.check_version",
    "ledger.note_accepted_token",
    "ledger.note_refused_token",
    "ledger.note_registration",
    "ledger.note_route",
    "ledger.pause",
    "ledger.resume",
    "ledger.withdraw_bridge",
}
"""Effects that are the only or the last step of a process, so its death leaves nothing undone."""

LOOKS = ("ledger.collect", "ledger.lost", "ledger.missed", "ledger.take", "ledger.unstarted")
"""Effects that are none where they find nothing: then their point afterwards is not passed."""


def effects() -> dict[str, tuple[type, str]]:
    """Every effect of bridge, runner and delivery, by name: ``ledger.admit``, ``server.claim``, ``broker.send``, …"""
    where = {Ledger: "ledger", Api: "server", Publisher: "broker", Spool: "spool"}
    return {
        f"{where[owner]}.{name}": (owner, name)
        for owner, reads in READS.items()
        for name, _ in inspect.getmembers(owner, inspect.isfunction)
        if not name.startswith("_") and name not in reads and f"{where[owner]}.{name}" not in LAST
    }


@dataclass(frozen=True)
class Point:
    """One place at which a process dies.

    Args:
        when: before or after the effect.
        effect: its name.
        victim: what is killed: the process alone, or its node.
    """

    when: When
    effect: str
    victim: Victim = "process"

    def __str__(self) -> str:
        return f"{self.when} {self.effect} ({self.victim})"

    @property
    def file(self) -> str:
        return f"{self.when} {self.effect} {self.victim}"


def arm(folder: Path, point: Point) -> Path:
    """Kill the next process that passes the point. Returns the file, which disappears when that happens."""
    file = folder / point.file
    file.touch()
    return file


def install() -> None:
    """Wrap the effects with crash points in this process, if a folder for them is set."""
    folder = os.environ.get("CRASH_POINTS")
    if not folder:
        return
    for effect, (owner, name) in effects().items():
        setattr(owner, name, _with_points(getattr(owner, name), effect, folder))


def _with_points(method: Callable[..., Any], effect: str, folder: str) -> Callable[..., Any]:
    @wraps(method)
    def passing(*args: Any, **kwargs: Any) -> Any:
        _pass(folder, "before", effect)
        answer = method(*args, **kwargs)
        if answer or effect not in LOOKS:
            _pass(folder, "after", effect)
        return answer

    return passing


def _pass(folder: str, when: When, effect: str) -> None:
    victims: tuple[Victim, ...] = ("process", "node")
    for victim in victims:
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, Point(when, effect, victim).file))
            if victim == "process":
                os.kill(os.getpid(), signal.SIGKILL)
            os.killpg(os.getpgid(0), signal.SIGKILL)
