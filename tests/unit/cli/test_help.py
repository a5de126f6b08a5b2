"""The help of the commands."""

from __future__ import annotations

import click
import pytest

from mr_celery.cli import main


@pytest.mark.parametrize("command", main.commands.values(), ids=lambda command: str(command.name))
def test_a_list_of_commands_shows_the_whole_first_sentence(command: click.Command) -> None:
    short = command.get_short_help_str(limit=1000)
    assert 0 < len(short) <= 45, short
    assert not short.endswith("...")
