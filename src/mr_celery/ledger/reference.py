"""The text form of an attempt's key: ``job.ref``, which fits into the address of a web hook."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from hashlib import sha256

from .records import AttemptKey

LONGEST_NAME = 100
"""Maximum length, in bytes, of a worker name that references contain in full. Of a longer one they contain the digest.

This keeps references to 200 characters. The ledger stores the name of each digest.
"""

_FORM = re.compile(r"([A-Za-z0-9_-]+|~[0-9a-f]{32})\.([0-9]{1,19})\.([0-9]{1,9})\.([A-Za-z0-9_-]{22})", re.ASCII)


def reference(worker_name: str, key: AttemptKey) -> str:
    """Write a reference: URL-safe, at most 200 characters."""
    return f"{_named(worker_name)}.{key.job_id}.{key.attempt}.{key.secret}"


def read_reference(text: str, name_of: Callable[[str], str | None]) -> tuple[str, AttemptKey] | None:
    """Read a reference: the worker name and the key; ``None`` if the text is not a reference.

    Args:
        text: the text, from anywhere.
        name_of: returns the worker name for a digest, if there is one.
    """
    found = _FORM.fullmatch(text) if isinstance(text, str) and len(text) <= 200 else None
    if found is None:
        return None
    named, job_id, attempt, secret = found.groups()
    worker_name = name_of(named) if named.startswith("~") else _decoded(named)
    return None if worker_name is None else (worker_name, AttemptKey(int(job_id), int(attempt), secret))


def digest_of(worker_name: str) -> str | None:
    """The digest that replaces a long worker name in references; ``None`` if they contain the name itself."""
    name = worker_name.encode()
    return f"~{sha256(name).hexdigest()[:32]}" if len(name) > LONGEST_NAME else None


def _named(worker_name: str) -> str:
    return digest_of(worker_name) or urlsafe_b64encode(worker_name.encode()).decode().rstrip("=")


def _decoded(named: str) -> str | None:
    try:
        return urlsafe_b64decode(named + "=" * (-len(named) % 4)).decode()
    except ValueError:
        return None
