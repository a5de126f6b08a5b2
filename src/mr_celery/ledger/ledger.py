"""The ledger: the state of every claimed job.

Each part has its own module: ``transitions`` (the steps of a job), ``workflows`` (those of a job that a handler has
handed over to other tasks), ``queries`` (reads), ``events`` (history and notifications), ``coordination`` (of the
processes that share the ledger), ``token_refusals``, and ``healing`` (the repair of lost keys). Only this package knows
the keys.
"""

from __future__ import annotations

from collections.abc import Mapping

from redis.exceptions import ResponseError

from ..errors import LedgerUnavailable, SettingsError
from .coordination import Coordination
from .events import Events
from .healing import Healing
from .queries import Queries
from .scripts import FLEET
from .token_refusals import RefusedTokens
from .transitions import Transitions
from .workflows import Workflows

LEDGER_VERSION = "3"
"""The version of the ledger's format: its keys, their fields, and what they mean."""

MINIMUM_VERSION = (6, 2)
"""The lowest version of Redis that a ledger can be in."""

EVICTION_HINT = (
    "Set it to noeviction (CONFIG SET maxmemory-policy noeviction, and in redis.conf), or give the ledger a Redis "
    "of its own (MODELREINS_LEDGER_URL)"
)
"""Advice for a Redis that evicts."""

CONTAINER_FOLDERS = ("/data/", "/opt/bitnami/")
"""Starts of the executable's path that Redis reports in common container images: it prepends its working directory."""


class Ledger(Transitions, Workflows, Queries, Events, Coordination, RefusedTokens, Healing):
    """The jobs of one worker name.

    Args:
        url: the Redis address.
        worker_name: the ModelReins worker name.
        prefix: the prefix of all keys and channels.
        replicas: the number of replicas that must have the steps without which a job would run again. Not on a Cluster.
        history: seconds for which an ended job is remembered.
        timeout: seconds that one step may take.

    Every method raises :class:`LedgerUnavailable` if Redis cannot be reached or refuses. A step whose answer was lost
    may be repeated: it is done now, or found done.
    """

    @property
    def version_key(self) -> str:
        """The key that holds the version, for all worker names with the same prefix in one Redis."""
        return f"{self._fleet_prefix}version"

    @property
    def version_hint(self) -> str:
        """Advice for a ledger of another version."""
        return (
            "run the same minor version of mr-celery in all bridges and workers. To change over: drain, stop all of "
            f"them, delete the key {self.version_key}, upgrade, and start"
        )

    def version(self) -> str | None:
        """The version of the format that this Redis' ledger has; ``None`` if the ledger is new."""
        with self._redis.client() as client:
            version = client.get(self.version_key)
        return None if version is None else version.decode(errors="replace")

    def check_version(self, *, prefix_is_derived: bool = False) -> None:
        """Make sure that the ledger has the version of this process. A new ledger gets it.

        Args:
            prefix_is_derived: whether the prefix is that of Celery's own keys, and was not set for the ledger.

        Raises:
            SettingsError: it has another version; or it would be a new one, beside one without the prefix.
        """
        version = self.version()
        if version is None:
            if prefix_is_derived and (why := self.would_be_second()):
                raise SettingsError(why)
            with self._redis.client() as client:
                client.set(self.version_key, LEDGER_VERSION, nx=True)
            version = self.version()  # another process may have been first
        if version not in (None, LEDGER_VERSION):
            needed = f"this process needs version {LEDGER_VERSION}"
            raise SettingsError(f"the ledger has version {version}, {needed}: {self.version_hint}")

    def would_be_second(self) -> str:
        """The reason not to create this new ledger under a prefix that is only derived; empty if there is none.

        Version 0.1 does not read a prefix from Celery. Its ledger, without the prefix, may have jobs in flight.
        """
        prefix = self._fleet_prefix.removesuffix(FLEET)
        if not prefix:
            return ""
        try:
            with self._redis.client() as client:
                exists = client.exists(f"{FLEET}version")
        except LedgerUnavailable as error:
            if isinstance(error.__cause__, ResponseError):  # the Redis user may only use keys with the prefix
                return ""
            raise
        if not exists:
            return ""
        return (
            f"this Redis has a ledger without the prefix {prefix!r}, which is the global_keyprefix of Celery's "
            'transport options. To go on with that ledger, set modelreins_ledger_prefix = "" in the Celery '
            f"configuration. To begin another one, set MODELREINS_LEDGER_PREFIX={prefix}"
        )

    def eviction(self) -> str | None:
        """Redis' ``maxmemory-policy``; ``None`` if Redis does not report it.

        On a Cluster it is the first policy that is not ``noeviction``.
        """
        for command, section, name in (
            ("info", "memory", "maxmemory_policy"),
            ("config_get", "maxmemory-policy", "maxmemory-policy"),
        ):
            if policies := sorted(set(self._reported(command, section, name)), key="noeviction".__eq__):
                return policies[0]
        return None

    def persists(self) -> bool | None:
        """Whether Redis keeps its data when it restarts; ``None`` if it does not report it."""
        logs = self._reported("info", "persistence", "aof_enabled")
        if logs and all(each == "1" for each in logs):
            return True
        snapshots = self._reported("config_get", "save", "save")
        return all(snapshots) if logs and snapshots else None

    def unlimited_in_container(self) -> bool:
        """Whether Redis has no ``maxmemory`` and seems to run in a container, which has a limit of its own."""
        programs = self._reported("info", "server", "executable")
        limits = self._reported("info", "memory", "maxmemory")
        return "0" in limits and any(program.startswith(CONTAINER_FOLDERS) for program in programs)

    def is_full(self) -> bool:
        """Whether Redis has reached its ``maxmemory``, so that it refuses new work."""
        used, limits = (self._reported("info", "memory", name) for name in ("used_memory", "maxmemory"))
        return any(0 < int(limit) <= int(taken) for taken, limit in zip(used, limits, strict=False))

    def confirming_replicas(self) -> int:
        """The number of replicas that confirm a write now.

        It stops waiting once as many as a step needs have done so.
        """
        return self._redis.confirmed([self._prefix, ""])

    def _reported(self, command: str, section: str, name: str) -> list[str]:
        """The value that each node reports for a name; empty if Redis does not know it, or forbids the command."""
        try:
            with self._redis.client() as client:
                answer = getattr(client, command)(section)
        except LedgerUnavailable as error:
            if isinstance(error.__cause__, ResponseError):
                return []
            raise
        nodes = [each for each in answer.values() if isinstance(each, Mapping)] or [answer]
        return [str(node[name]) for node in nodes if name in node]

    def server_version(self) -> tuple[int, ...] | None:
        """The version of the ledger's Redis; ``None`` if Redis does not report it. On a Cluster it is one node's."""
        found = self._reported("info", "server", "redis_version")
        return tuple(int(part) for part in found[0].split(".")[:3]) if found else None


def evicts(policy: str | None) -> str:
    """The effect of a ``maxmemory-policy`` on the ledger; empty if it has none or is not known."""
    if policy is None or policy == "noeviction":
        return ""
    if policy.startswith("volatile-"):
        return (
            "when its memory is full, it evicts expiring keys: the ledger's history, statistics and list of online "
            "workers, and the marks that keep a job that has just ended from running again"
        )
    return "when its memory is full, it may evict jobs in flight, which can then run again"
