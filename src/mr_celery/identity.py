"""Worker names: several of them can share one fleet, each with a token of its own and a part of the handlers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

KEYS = ("token_env", "capabilities", "queues")


class WrongIdentity(ValueError):
    """What is wrong with a setting of worker names, in words for whoever has set it."""


@dataclass(frozen=True)
class Identity:
    """One worker name of an installation.

    Args:
        name: the worker name that jobs are assigned to.
        token_env: the environment variable that has its token; empty: the installation's token.
        capabilities: it offers the handlers that declare one of these capabilities, or tags; empty: any.
        queues: it offers the handlers whose tasks go to one of these queues; empty: any.
        token: its token, once it is read.
    """

    name: str
    token_env: str = ""
    capabilities: frozenset[str] = frozenset()
    queues: frozenset[str] = frozenset()
    token: str = field(default="", repr=False)

    def offers(self, names: frozenset[str], queue: str) -> bool:
        """Whether it offers a handler with these capabilities and tags, whose tasks go to that queue."""
        return (not self.capabilities or bool(self.capabilities & names)) and (not self.queues or queue in self.queues)


def parse_identities(value: Any, parse_name: Callable[[Any], str]) -> tuple[Identity, ...]:
    """The worker names of a setting, in its order.

    Args:
        value: a mapping from each worker name to a mapping of :data:`KEYS`, or that as JSON.
        parse_name: makes a worker name of a value, or raises ValueError.

    Raises:
        WrongIdentity: a worker name or its mapping is wrong; the message names them, and no value that could be a
            token.
        ValueError: it is no mapping.
    """
    named = json.loads(value) if isinstance(value, str) else value
    if not isinstance(named, Mapping) or not named:
        raise ValueError
    return tuple(_identity(name, options or {}, parse_name) for name, options in named.items())


def _identity(given: Any, options: Any, parse_name: Callable[[Any], str]) -> Identity:
    try:
        name = parse_name(given)
    except ValueError:
        raise WrongIdentity(f"{given!r} is no worker name: allowed is a text of at most 200 bytes") from None
    if not isinstance(options, Mapping):
        raise WrongIdentity(f"{name!r} needs a mapping with {', '.join(KEYS)}, all of them optional")
    for key in options:
        if key not in KEYS:
            hint = "; a token itself has no place here, only the name of its variable" if key == "token" else ""
            raise WrongIdentity(f"{name!r} has {key!r}, which is none of {', '.join(KEYS)}{hint}")
    token_env = options.get("token_env") or ""
    if not isinstance(token_env, str) or not (token_env.isidentifier() or not token_env):
        raise WrongIdentity(f"token_env of {name!r} must be the name of an environment variable")
    return Identity(name, token_env, _texts(name, options, "capabilities"), _texts(name, options, "queues"))


def _texts(name: str, options: Mapping[str, Any], key: str) -> frozenset[str]:
    values = options.get(key)
    if values is None:
        return frozenset()
    if not (isinstance(values, (list, tuple, set, frozenset)) and values and all(isinstance(v, str) for v in values)):
        raise WrongIdentity(f"{key} of {name!r} must be a list of texts")
    return frozenset(values)
