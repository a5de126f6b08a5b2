"""Finds the secrets that the server resolved for a job, and masks them in texts.

The names of the fields with resolved secrets are not documented. So a value counts as a secret if a field that contains
it, directly or further up, has a name with ``secret``, ``vault`` or ``credential``, or names a required secret:
``vault://prod/stripe-key`` itself, its path, or its last word, in any spelling (``STRIPE_KEY``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from typing import Any

MASK = "***"
"""Replaces a secret in a text."""

SCHEME = "vault://"

WORDS = ("secret", "vault", "credential")
"""A field whose name contains one of these words has secret values."""

_WORDS = re.compile("|".join(WORDS))

LEAST = 6
"""Minimum length, in characters, of a value that is masked in texts. Shorter ones occur in ordinary words."""


class Secret(str):
    """A secret value. It is an ordinary string, except that its repr hides it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'{MASK}'"

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        return Secret, (str(self),)


def hide_secrets(fields: Any, required: Iterable[str] = ()) -> frozenset[str]:
    """Turn the secret values in a job's fields into :class:`Secret`, in place.

    Args:
        fields: the fields, as decoded from JSON.
        required: the names of the required secrets, such as ``vault://prod/stripe-key``.

    Returns:
        The secret values that are long enough to be masked in texts.
    """
    names = {_plain(form) for name in required for form in _forms(name)}
    found: set[str] = set()
    left: list[tuple[Any, bool]] = [(fields, False)]
    while left:  # not by recursion: a job may be nested deeply
        container, is_secret = left.pop()
        items = list(container.items()) if isinstance(container, dict) else list(enumerate(container))
        for key, value in items:
            inside = is_secret or (isinstance(key, str) and _names_a_secret(key, names))
            if isinstance(value, (dict, list)):
                left.append((value, inside))
            elif inside and isinstance(value, str) and not value.startswith(SCHEME):
                container[key] = Secret(value)
                found.add(value)
            elif inside and isinstance(value, (int, float)) and not isinstance(value, bool):
                found.add(str(value))
    return frozenset(value for value in found if len(value.strip()) >= LEAST)


def masked(text: str, secrets: Collection[str]) -> str:
    """A text with all secrets replaced by ``***``.

    Args:
        text: the text.
        secrets: the values that :func:`hide_secrets` returned.
    """
    for value in sorted(secrets, key=len, reverse=True):
        for form in {value, value.strip(), repr(str(value))[1:-1], json.dumps(value)[1:-1]}:
            text = text.replace(form, MASK)
    return text


def _names_a_secret(key: str, names: Collection[str]) -> bool:
    return _WORDS.search(key.lower()) is not None or (bool(names) and _plain(key) in names)


def _forms(name: str) -> tuple[str, ...]:
    path = name.removeprefix(SCHEME)
    return (path, path.rstrip("/").rpartition("/")[2])


def _plain(name: str) -> str:
    """A name in a normal form, in which ``stripe-key`` and ``STRIPE_KEY`` are equal."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
