"""Worker names: several can share a fleet, each with its own token and a subset of the handlers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

KEYS = ("token_env", "token_file", "capabilities", "queues")


class WrongValue(ValueError):
    """A setting has an invalid value. The message is written for the user, and does not repeat a secret."""


class InvalidWorkerNames(WrongValue):
    """A setting of worker names is invalid."""


@dataclass(frozen=True)
class WorkerNameOptions:
    """A worker name of an installation, with its options.

    Args:
        name: the worker name that jobs are assigned to.
        token_env: the environment variable with its token; empty for the installation's token.
        token_file: the file with its token, which may change; empty if there is none.
        capabilities: offer only handlers that declare one of these capabilities or tags; empty for all.
        queues: offer only handlers whose tasks are routed to one of these queues; empty for all.
        token: its token, once it has been read.
    """

    name: str
    token_env: str = ""
    token_file: str = ""
    capabilities: frozenset[str] = frozenset()
    queues: frozenset[str] = frozenset()
    token: str = field(default="", repr=False)

    def offers(self, names: frozenset[str], queue: str) -> bool:
        """Whether it offers a handler with these capabilities and tags on this queue."""
        return (not self.capabilities or bool(self.capabilities & names)) and (not self.queues or queue in self.queues)


def parse_worker_names(value: Any, parse_name: Callable[[Any], str]) -> tuple[WorkerNameOptions, ...]:
    """Parse the setting ``workers``, in its order.

    Args:
        value: a mapping from each worker name to a mapping with :data:`KEYS`, or the same as JSON.
        parse_name: validates a worker name; raises ValueError.

    Raises:
        InvalidWorkerNames: a worker name or its options are invalid. The message omits values that could be tokens.
        ValueError: the value is not a mapping, or is empty.
    """
    named = json.loads(value) if isinstance(value, str) else value
    if not isinstance(named, Mapping) or not named:
        raise ValueError
    return tuple(_options(name, options or {}, parse_name) for name, options in named.items())


def _options(given: Any, options: Any, parse_name: Callable[[Any], str]) -> WorkerNameOptions:
    try:
        name = parse_name(given)
    except ValueError:
        raise InvalidWorkerNames(f"{given!r} is not a valid worker name: use a string of at most 200 bytes") from None
    if not isinstance(options, Mapping):
        raise InvalidWorkerNames(f"{name!r} needs a mapping with {', '.join(KEYS)}, all of them optional")
    for key in options:
        if key not in KEYS:
            hint = "; use token_env with the name of an environment variable" if key == "token" else ""
            raise InvalidWorkerNames(f"{name!r} has the unknown key {key!r}; allowed are {', '.join(KEYS)}{hint}")
    token_env = options.get("token_env") or ""
    if not isinstance(token_env, str) or not (token_env.isidentifier() or not token_env):
        raise InvalidWorkerNames(f"token_env of {name!r} must be the name of an environment variable")
    token_file = options.get("token_file") or ""
    if not isinstance(token_file, str) or any(ord(character) < 32 for character in token_file):
        raise InvalidWorkerNames(f"token_file of {name!r} must be the path of a file")
    if token_env and token_file:
        raise InvalidWorkerNames(f"{name!r} has both token_env and token_file: give one of them")
    return WorkerNameOptions(
        name, token_env, token_file, _strings(name, options, "capabilities"), _strings(name, options, "queues")
    )


def _strings(name: str, options: Mapping[str, Any], key: str) -> frozenset[str]:
    values = options.get(key)
    if values is None:
        return frozenset()
    if not (isinstance(values, (list, tuple, set, frozenset)) and values and all(isinstance(v, str) for v in values)):
        raise InvalidWorkerNames(f"{key} of {name!r} must be a list of strings, not empty")
    return frozenset(values)
