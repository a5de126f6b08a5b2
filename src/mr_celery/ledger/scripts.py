"""Runs the scripts in ``lua/``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any
from urllib.parse import quote

import redis
from redis.exceptions import RedisClusterException

from ..errors import LedgerUnavailable
from ..settings.redis_address import shown
from .connections import RedisClients, clients_of
from .key_types import drop_wrong_types

PREFIX = "modelreins"
"""The beginning of all keys and channels, after the prefix of the settings."""

FLEET = f"{PREFIX}:{{fleet}}:"
"""The beginning of the keys that all worker names share, likewise."""

PAGE = 200
"""Maximum number of jobs that one script handles. Redis serves no other client while a script runs."""

AWAITED = frozenset(
    {"admit", "start", "reference", "defer", "finish", "complete"}
    | {"hand_over", "handed_over", "member_sent", "start_member", "end_member", "finish_member"}
)
"""The scripts that wait for replicas, if the settings name some.

Without what they write, a job that has started or ended would run again, and a reference that was given away would be
void. As the first of a job's steps, ``admit`` keeps a bridge from claiming jobs that could not start. Replicas have the
steps in order, so they also have all steps before.
"""

ERRORS = (redis.RedisError, RedisClusterException, OSError)
"""The errors of a Redis that cannot be reached, or refuses."""

FULL = "OOM: its Redis has reached maxmemory"
"""The description of a Redis whose memory is full."""


_COMMENT = re.compile(r"^ *--.*\n| +-- .*", re.MULTILINE)
_DEFINITION = re.compile(r"^local (?:function )?(\w+)(?:\(.*?^end| = \{.*?\})\n", re.MULTILINE | re.DOTALL)


@cache
def source_of(names: tuple[str, ...]) -> str:
    """The source of a script that is made of the named files, one after the other.

    It has neither comments nor unused definitions: Redis would create all functions anew in each run, which took a
    sixth of its time for a job.
    """
    folder = files(__package__).joinpath("lua")
    source = _COMMENT.sub("", "\n".join(folder.joinpath(f"{name}.lua").read_text() for name in names))
    used, end = "", len(source)
    for definition in reversed(list(_DEFINITION.finditer(source))):
        used = source[definition.end() : end] + used
        if re.search(rf"\b{definition[1]}\b", used):
            used = definition[0] + used
        end = definition.start()
    return source[:end] + used


class Scripts:
    """Runs scripts in a Redis, and turns each failure into a :class:`LedgerUnavailable`.

    Args:
        url: its address.
        timeout: seconds for each request.
        prefix: the prefix of the keys.
        replicas: the number of replicas that must have a step of :data:`AWAITED`.

    It connects on first use, so a process can start while Redis is unreachable.
    """

    def __init__(self, url: str, timeout: float, prefix: str, *, replicas: int = 0) -> None:
        self._replicas = replicas
        self._url = url
        self._timeout = timeout
        self._prefix = prefix
        self._nothing = f"{prefix}nothing"
        self._digests: dict[tuple[str, ...], str] = {}
        self._clients = (os.getpid(), clients_of(url, timeout))

    def run(self, *names: str, keys: Sequence[str], arguments: Sequence[object]) -> Any:
        """Run a script, made of the named files one after the other.

        Raises:
            LedgerUnavailable: Redis cannot be reached, or refuses, or too few replicas have confirmed the step.
        """
        if not (self._replicas and names[-1] in AWAITED):
            process, clients = self._clients
            if process != os.getpid():
                clients = self._own_clients()
            try:
                return clients.call(self._evaluate, names, keys, arguments)
            except ERRORS as error:
                raise self._unavailable(clients, error) from error
        *before, step = names
        answer, confirmed = self._replicated((*before, "replicated", step), keys, arguments)
        if confirmed < self._replicas:
            # The next try asks for the master's address again: this one may have been replaced.
            self._own_clients().disconnect()
            raise LedgerUnavailable(
                f"the ledger at {shown(self._url)}: {confirmed} of {self._replicas} replicas have confirmed a step "
                f"within {self._timeout / 2:g} s (MODELREINS_LEDGER_REPLICAS)"
            )
        return answer

    def confirmed(self, arguments: Sequence[object]) -> int:
        """The number of replicas that confirm a write now. It stops waiting once as many as a step needs have done so.

        Args:
            arguments: the first arguments of all scripts.
        """
        return self._replicated(("record", "known_work", "replicated"), [], arguments)[1]

    def _replicated(self, names: tuple[str, ...], keys: Sequence[str], arguments: Sequence[object]) -> tuple[Any, int]:
        """Run a script that writes in any case. Returns its answer, and the number of replicas that have it."""
        with self.client() as client:
            answer = self._evaluate(client, names, keys, arguments)
            # WAIT covers only the writes of its own connection. The client would replace a failed connection before it
            # sent WAIT, and on a new one there is nothing to wait for.
            connection = client.connection
            connection.send_command("WAIT", self._replicas, int(self._timeout * 500))
            return answer, int(connection.read_response())

    def _own_clients(self) -> RedisClients:
        """The clients of this process. A forked child has its own."""
        self._clients = (os.getpid(), clients_of(self._url, self._timeout))
        return self._clients[1]

    def _evaluate(self, client: Any, names: tuple[str, ...], keys: Sequence[str], arguments: Sequence[object]) -> Any:
        digest = self._digests.get(names)
        if digest is None:
            digest = self._digests[names] = sha1(source_of(names).encode(), usedforsecurity=False).hexdigest()
        # While a Cluster moves the keys to another node, both nodes refuse a command with several keys if one of them
        # does not exist. Otherwise a script could find the job on one node, and its lists on the other.
        command = ("EVALSHA", digest, len(keys) + 1, *keys, self._nothing, *arguments)
        try:
            try:
                return client.execute_command(*command)
            except redis.exceptions.NoScriptError:
                client.script_load(source_of(names))
                return client.execute_command(*command)
        except redis.ResponseError as error:
            if not self._mends(client, error):
                raise
        # If it had written anything before the error, that is repaired.
        return client.execute_command(*command)

    @contextmanager
    def client(self) -> Iterator[Any]:
        """A client for the commands of the block, whose errors it turns into :class:`LedgerUnavailable`."""
        clients = self._own_clients()
        try:
            with clients.client() as client:
                try:
                    yield client
                except redis.ResponseError as error:
                    with suppress(redis.RedisError):
                        self._mends(client, error)  # the next try finds it lost
                    raise
        except ERRORS as error:
            raise self._unavailable(clients, error) from error

    def _unavailable(self, clients: RedisClients, error: Exception) -> LedgerUnavailable:
        if why := _refused_writes(error):
            # Another server may be the master by now, which only a new connection reaches.
            clients.disconnect()
            why = f" {why}: {_words(error)}"
        elif "used memory > 'maxmemory'" in str(error):
            why = f" is full ({FULL})"
        else:
            why = f": {type(error).__name__}: {_words(error)}"
        return LedgerUnavailable(f"the ledger at {shown(self._url)}{why}")

    def _mends(self, client: Any, error: Exception) -> bool:
        """Whether an error came from a key of a wrong type, which is deleted by now."""
        return "WRONGTYPE" in str(error) and drop_wrong_types(client, self._prefix)


def _words(error: Exception) -> str:
    """The text of an error without the arguments of the command, which may have a job's content."""
    return str(error).partition(", with args beginning with")[0]


def _refused_writes(error: Exception) -> str:
    """Why Redis accepts no writes, if it is a replica or has too few of them; else empty."""
    if not isinstance(error, redis.ResponseError):
        return ""
    if "NOREPLICAS " in str(error):
        return "accepts no writes, as it has too few replicas (min-replicas-to-write)"
    # Redis 6.2 says so inside of a script's error.
    return "is read-only, a replica" if isinstance(error, redis.ReadOnlyError) or "-READONLY " in str(error) else ""


class LedgerBase:
    """The keys of a worker name's ledger, and how its scripts are run.

    Args:
        url: the Redis address.
        worker_name: the ModelReins worker name.
        prefix: the prefix of all keys and channels.
        replicas: the number of replicas that must have the steps in :data:`AWAITED`. Not on a Cluster.
        history: seconds for which an ended job is remembered.
        timeout: seconds that one step may take.
    """

    def __init__(
        self,
        url: str,
        worker_name: str,
        *,
        prefix: str = "",
        replicas: int = 0,
        history: float = 86400.0,
        timeout: float = 5.0,
    ) -> None:
        self._fleet_prefix = f"{prefix}{FLEET}"
        self._prefix = f"{prefix}{PREFIX}:{{{quote(worker_name, safe='')}}}:"
        self._redis = Scripts(url, timeout, self._prefix, replicas=replicas)
        self._history = history
        self.worker_name = worker_name
        self.notifications = f"{self._prefix}notifications"

    def _script(self, names: Sequence[str], job_id: int | str, arguments: Sequence[object]) -> Any:
        keys = [f"{self._prefix}job:{job_id}"]
        return self._redis.run(*names, keys=keys, arguments=[self._prefix, job_id, *arguments])

    def _take_in(self, name: str, job_id: int | str, *arguments: object) -> Any:
        """Run a script that accepts new work. Redis refuses it if its memory is full."""
        return self._script(("record", "mending", name), job_id, arguments)

    def _run(self, name: str, job_id: int | str, *arguments: object) -> Any:
        """Run a script of accepted work. It succeeds even if Redis' memory is full."""
        return self._script(("record", "known_work", name), job_id, arguments)

    def _move(self, name: str, job_id: int | str, *arguments: object) -> Any:
        """Run a script of accepted work whose first write removes something, which a full Redis allows, too."""
        return self._script(("record", name), job_id, arguments)

    def _look(self, name: str, *arguments: object) -> Any:
        """Run a script that reads several jobs and changes nothing."""
        return self._script(("record", name), "", arguments)

    def _now(self) -> float:
        """The ledger's time, in seconds since 1970."""
        return float(self._script(("record", "surveying", "survey"), "", ())[0])
