"""The types of the ledger's keys. A key of another type is damage, and counts as lost."""

from __future__ import annotations

import logging
import re
from typing import Any

logger = logging.getLogger("mr_celery")

TYPES = {
    b"hash": "job payload stats routes reached looked missed nodes bridges members parts",
    b"zset": "admitted claimed sent running deferred finished waiting undelivered ended unfinished "
    "online changes bridges_online",
    b"set": "load deferring",
    b"list": "events",
    b"string": "paused outcome dropped founded turn registered version name profile refused replicated",
}
"""The ledger's keys by their type: each up to its first colon, without the prefix."""

_TYPE_OF = {name: kind for kind, names in TYPES.items() for name in names.split()}


def glob_escaped(text: str) -> str:
    """A text as a part of a pattern of Redis that matches only itself."""
    return re.sub(r"([*?\[\]\\^])", r"\\\1", text)


def drop_wrong_types(client: Any, prefix: str) -> bool:
    """Delete the keys of a ledger that have a wrong type.

    Args:
        client: a client of its Redis.
        prefix: the prefix of the ledger's keys.

    Returns:
        Whether there was one.
    """
    dropped = False
    for key in client.scan_iter(match=f"{glob_escaped(prefix)}*", count=1000):
        name = key.decode(errors="replace")[len(prefix) :]
        kind, wanted = client.type(key), _TYPE_OF.get(name.partition(":")[0])
        if wanted is None or kind in (wanted, b"none"):
            continue
        dropped = bool(client.delete(key)) or dropped
        logger.error(
            "the ledger is damaged: its key %s is of type %s and not %s; it is deleted, and what it held is lost",
            name,
            kind.decode(),
            wanted.decode(),
            extra={"event": "damaged", "reason": "type"},
        )
    return dropped
