"""The permissions that a Redis user needs for a ledger: the one list of its commands, keys and channels."""

from __future__ import annotations

from .key_types import glob_escaped
from .scripts import PREFIX

CONNECTION = ("ping", "select")
"""Commands of a connection. Redis allows AUTH and HELLO to every user."""

SCRIPTS = ("evalsha", "script|load")
"""Commands that run the scripts."""

IN_SCRIPTS = (
    *("del", "exists", "expire", "get", "hdel", "hexists", "hget", "hgetall", "hincrby", "hkeys"),
    *("hlen", "hmget", "hset", "hsetnx", "lset", "ltrim", "persist", "pexpire", "pttl", "publish", "rpush"),
    *("sadd", "scard", "set", "sismember", "smembers", "srem", "time", "unlink", "zadd", "zcard", "zcount", "zrange"),
    *("zrangebyscore", "zrem", "zremrangebyscore", "zscore"),
)
"""Commands that the scripts run."""

EARLIER = ("hincrbyfloat",)
"""Commands that run in the scripts of earlier versions, which may still use the same ledger."""

READS = ("exists", "get", "hget", "hgetall", "hmget", "lrange", "sscan", "time", "zrevrangebyscore", "zscan")
"""Commands that read without a script."""

WRITES = ("publish", "set")
"""Commands that write without a script."""

REPAIRS = ("del", "scan", "type")
"""Commands that look for keys of a wrong type, and delete them."""

NOTIFICATIONS = ("publish", "subscribe")
"""Commands of the notifications. Without them, or without the channel, bridges poll the ledger once a second."""

REPLICAS = ("wait",)
"""Commands that are needed with ``MODELREINS_LEDGER_REPLICAS``."""

OPTIONAL = ("config|get", "info")
"""Commands with which ``check`` and a starting bridge read Redis' version, memory and persistence, if allowed."""

CLUSTER = ("asking", "cluster|shards", "cluster|slots", "command", "readonly")
"""Commands that redis-py needs on a Redis Cluster."""

COMMANDS = tuple(sorted({*CONNECTION, *SCRIPTS, *IN_SCRIPTS, *EARLIER, *READS, *WRITES, *REPAIRS, *NOTIFICATIONS}))
"""All commands that a ledger needs."""

HINT = "give it the permissions in docs/operations.md, A Redis user of its own"
"""Advice for a user that lacks a permission."""


def acl_rules(*more: str, prefix: str = "") -> list[str]:
    """The rules for ``ACL SETUSER``, without the password.

    Args:
        more: further commands, such as :data:`OPTIONAL`.
        prefix: the prefix of the ledger's keys and channels.
    """
    pattern = f"{glob_escaped(prefix)}{PREFIX}:*"
    rules = ["on", "resetkeys", f"~{pattern}", "resetchannels", f"&{pattern}", "-@all"]
    return [*rules, *(f"+{name}" for name in sorted({*COMMANDS, *more}))]
