"""The fleet: the Celery workers that are online, and the tasks that they can run.

Workers announce themselves here, for all worker names. So the bridge knows the fleet without asking the workers, on any
broker. A worker that dies disappears after one lease.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .scripts import FLEET, Scripts

NAMED = 5
"""Number of workers of a kind that are named in messages."""


@dataclass(frozen=True)
class Node:
    """A Celery worker that is online.

    Args:
        hostname: its node name (``celery@host``).
        concurrency: the number of tasks that it runs at once.
        queues: the queues it consumes.
        tasks: the tasks it has registered that take jobs.
        version: its version of mr-celery.
        app_version: the version of the application.
    """

    hostname: str
    concurrency: int
    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    version: str = ""
    app_version: str = ""


@dataclass(frozen=True)
class Kind:
    """The online workers that have the same queues, tasks and versions.

    Args:
        queues: the queues they consume.
        tasks: the tasks they have registered that take jobs.
        version: their version of mr-celery.
        app_version: the version of the application.
        workers: their number.
        slots: the number of tasks that they run at once, in all.
        named: the node names of the first :data:`NAMED` of them.
    """

    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    version: str
    app_version: str
    workers: int
    slots: int
    named: tuple[str, ...]

    def runs(self, task: str, queue: str) -> bool:
        """Whether they take ``task`` from ``queue``."""
        return task in self.tasks and queue in self.queues


class Nodes(tuple[Node, ...]):
    """The online workers.

    Most workers of a large fleet are of the same kind. So what depends only on the kind is calculated from these.
    """

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of the workers."""
        found: dict[tuple[tuple[str, ...], tuple[str, ...], str, str], list[Node]] = {}
        for node in self:
            found.setdefault((node.queues, node.tasks, node.version, node.app_version), []).append(node)
        return tuple(
            Kind(*kind, len(nodes), sum(node.concurrency for node in nodes), tuple(n.hostname for n in nodes[:NAMED]))
            for kind, nodes in found.items()
        )


class Heartbeats:
    """The heartbeats of one kind of process. A process that stops announcing itself is no longer online.

    Args:
        redis: the ledger's Redis.
        hash_key: the key that holds the descriptions of the processes.
        online_key: the key that holds the time until which each counts as online.

    Methods raise :class:`LedgerUnavailable` if Redis cannot be reached.
    """

    def __init__(self, redis: Scripts, hash_key: str, online_key: str) -> None:
        self._redis = redis
        self._keys = [hash_key, online_key]

    def _run(self, name: str, *arguments: object) -> Any:
        return self._redis.run(name, keys=self._keys, arguments=arguments)

    def announce(self, name: str, about: Mapping[str, Any], *, seconds: float) -> None:
        """Announce a process as online, for ``seconds`` from now."""
        self._run("announce", name, json.dumps(about), seconds)

    def withdraw(self, name: str) -> None:
        """Remove a process."""
        self._run("withdraw", name)

    def online(self) -> list[Mapping[str, Any]]:
        """The descriptions of the processes that are online. One that cannot be read is left out."""
        read = (_json_object(about) for about in self._run("online"))
        return [about for about in read if about is not None]


class Fleet:
    """The heartbeats of the online workers.

    What workers have in common, their profile, is stored once. A reader reads all workers once, and the changes from
    then on. So the cost of a read does not grow with the number of workers.

    Args:
        url: the ledger's Redis address.
        prefix: the prefix of all keys.
        timeout: seconds for each request.

    Methods raise :class:`LedgerUnavailable` if Redis cannot be reached.
    """

    def __init__(self, url: str, *, prefix: str = "", timeout: float = 5.0) -> None:
        self._prefix = f"{prefix}{FLEET}"
        self._redis = Scripts(url, timeout, self._prefix)
        self._lock = threading.Lock()
        self._last_change = -1
        self._abouts: dict[str, str] = {}
        self._profiles: dict[str, _Profile] = {}
        self._nodes: dict[str, Node] = {}
        self._online = Nodes()

    def _run(self, name: str, *arguments: object) -> Any:
        return self._redis.run("nodes", name, keys=[f"{self._prefix}nodes"], arguments=[self._prefix, *arguments])

    def announce(self, node: Node, *, seconds: float) -> None:
        """Announce a worker as online, for ``seconds`` from now."""
        profile = json.dumps([node.queues, node.tasks, node.version, node.app_version])
        digest = hashlib.sha256(profile.encode()).hexdigest()[:20]
        stored = self._run("announce_node", node.hostname, node.concurrency, digest, seconds, "")
        if not stored:
            self._run("announce_node", node.hostname, node.concurrency, digest, seconds, profile)

    def withdraw(self, hostname: str) -> None:
        """Remove a worker that accepts no more tasks."""
        self._run("withdraw_node", hostname)

    def online(self) -> Nodes:
        """The workers that are online. It is the same object until one comes, changes or leaves."""
        with self._lock:
            if self._read_changes(self._last_change) != len(self._abouts):
                self._read_changes(-1)  # the ledger was rolled back, with changes that were read
            return self._online

    def _read_changes(self, since: int) -> int:
        """Read the changes after one; all workers after -1. Returns the number of workers."""
        last_change, count, whole, news, profiles = self._run("changed_nodes", since)
        if whole:
            self._abouts, self._profiles, self._nodes = {}, {}, {}
        if whole or news:
            self._apply(dict(_pairs(news)), dict(_pairs(profiles)))
            self._online = Nodes(self._nodes.values())
        self._last_change = int(last_change)
        return int(count)

    def _apply(self, news: Mapping[str, str], profiles: Mapping[str, str]) -> None:
        """Apply changes. A worker whose profile is lost is left out until one of its kind announces itself again.

        A worker whose concurrency or profile cannot be read is left out, too.
        """
        for digest, text in profiles.items():
            if text and digest not in self._profiles and (profile := _profile(text)) is not None:
                self._profiles[digest] = profile
        for hostname, about in news.items():
            self._nodes.pop(hostname, None)
            self._abouts.pop(hostname, None)
            if about:
                self._abouts[hostname] = about
        for hostname in self._abouts.keys() - self._nodes.keys():
            text, _, digest = self._abouts[hostname].partition(" ")
            if digest in self._profiles and (concurrency := _concurrency(text)) is not None:
                self._nodes[hostname] = Node(hostname, concurrency, *self._profiles[digest])
        if len(self._profiles) > len(self._abouts):
            used = {about.partition(" ")[2] for about in self._abouts.values()}
            self._profiles = {digest: each for digest, each in self._profiles.items() if digest in used}

    def name_of(self, digest: str) -> str | None:
        """The worker name behind a digest in references."""
        with self._redis.client() as client:
            name = client.get(f"{self._prefix}name:{digest}")
        return None if name is None else name.decode()

    def clock_difference(self) -> float:
        """Seconds by which this host's clock is ahead of Redis' clock."""
        with self._redis.client() as client:
            seconds, microseconds = client.time()
        return time.time() - (float(seconds) + float(microseconds) / 1_000_000)


_Profile = tuple[tuple[str, ...], tuple[str, ...], str, str]
"""The queues, tasks and versions of a worker."""


def _pairs(flat: Sequence[bytes]) -> Iterator[tuple[str, str]]:
    texts = (each.decode(errors="replace") for each in flat)
    return zip(texts, texts, strict=True)


def _concurrency(text: str) -> int | None:
    """A worker's concurrency; ``None`` if the text is not one."""
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def _profile(text: str) -> _Profile | None:
    """A profile from its JSON text; ``None`` if the text is not one."""
    try:
        queues, tasks, version, app_version, *_ = json.loads(text)  # a later version may add to them
    except (ValueError, TypeError, RecursionError):
        return None
    if not (_are_texts(queues) and _are_texts(tasks) and _are_texts([version, app_version])):
        return None
    return tuple(queues), tuple(tasks), version, app_version


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _json_object(text: bytes) -> Mapping[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
