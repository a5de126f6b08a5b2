"""The types of the ledger's keys match the list at the top of its scripts."""

from __future__ import annotations

import re
from importlib.resources import files

from mr_celery.ledger.key_types import TYPES

KINDS = {"hash": "hash", "sorted set": "zset", "sorted sets": "zset", "set": "set", "list": "list", "string": "string"}

KEYS = re.compile(rf"^(.+?) +({'|'.join(KINDS)}|channel|never exists)\b")


def described_keys() -> dict[str, str]:
    """The keys that ``record.lua`` describes, up to their first colon, and their types."""
    source = files("mr_celery.ledger").joinpath("lua", "record.lua").read_text()
    block = source[source.index("-- Keys.") : source.index("-- The record,")]
    entries = re.findall(r"^--   (\S.*(?:\n--    .*)*)", block, re.MULTILINE)
    assert len(entries) > 20
    found: dict[str, str] = {}
    for entry in entries:
        match = KEYS.match(re.sub(r"\n-- +", " ", entry))
        assert match is not None, entry
        names, kind = match.groups()
        found.update({name.partition(":")[0]: KINDS[kind] for name in names.split(", ") if kind in KINDS})
    return found


def test_a_key_that_the_scripts_describe_has_its_type_in_the_list() -> None:
    types = {name: kind.decode() for kind, names in TYPES.items() for name in names.split()}
    assert described_keys().items() <= types.items()
