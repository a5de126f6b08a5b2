"""The list of the commands that a ledger's Redis user needs."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from mr_celery import ledger
from mr_celery.ledger.permissions import (
    COMMANDS,
    IN_SCRIPTS,
    NOTIFICATIONS,
    READS,
    REPAIRS,
    SCRIPTS,
    WRITES,
    acl_rules,
)

PAGE = Path(__file__).parents[3] / "docs" / "operations.md"


def commands_in_scripts() -> set[str]:
    """The commands of all scripts, found in their source."""
    found: set[str] = set()
    for script in files("mr_celery.ledger").joinpath("lua").iterdir():
        source = re.sub(r"--.*", "", script.read_text())
        for first in re.findall(r"redis\.p?call\(([^,)]*)", source):
            quoted = re.findall(r"'(\w+)'", first)
            assert quoted or first == "command", f"{script.name}: {first}"
            found.update(quoted)
        found.update(re.findall(r"add_to\('(\w+)'", source))  # it passes its command on
    return {name.lower() for name in found}


def test_the_list_has_the_commands_of_the_scripts() -> None:
    assert commands_in_scripts() == set(IN_SCRIPTS)


def commands_of_clients() -> set[str]:
    """The commands that the ledger sends without a script, found in its source."""
    names = {"delete": "del", "execute_command": "evalsha", "script_load": "script|load"}
    found: set[str] = set()
    for module in Path(ledger.__file__).parent.glob("*.py"):
        source = module.read_text()
        found.update(re.findall(r"\b(?:client|pipeline|subscription|pipe)\.(\w+)\(", source))
    found -= {"close", "execute", "get_message", "pipeline", "pubsub"}
    return {names.get(name, name.removesuffix("_iter")) for name in found}


def test_the_list_has_the_commands_without_scripts() -> None:
    listed = {*SCRIPTS, *READS, *WRITES, *REPAIRS, *NOTIFICATIONS}
    assert commands_of_clients() == listed


def test_the_patterns_of_keys_and_channels_have_the_prefix() -> None:
    assert {"~modelreins:*", "&modelreins:*"} <= set(acl_rules())
    assert {r"~shop\[1\]:modelreins:*", r"&shop\[1\]:modelreins:*"} <= set(acl_rules(prefix="shop[1]:"))


def test_the_rules_on_the_page_are_the_list() -> None:
    (block,) = [each for each in re.findall(r"```text\n(.*?)```", PAGE.read_text(), re.DOTALL) if "ACL SETUSER" in each]
    assert block.split() == ["ACL", "SETUSER", "modelreins", ">PASSWORD", *acl_rules()]


def test_no_command_is_dangerous() -> None:
    assert not {"keys", "info", "flushall", "flushdb", "config|get", "sort", "monitor", "eval"} & set(COMMANDS)
