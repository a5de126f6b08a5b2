"""Prints lines on the terminal.

Lines may contain text from the server, from jobs and from other hosts. Each line is made printable, so that only the
styles that are set here control the terminal.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

import click

from ..telemetry.printing import printable_line

_ESCAPE = secrets.token_hex(8)
"""Stands for ESC in a styled text until it is printed. It is random, so no other text contains it."""


def styled(text: str, **style: Any) -> str:
    """A text in a style of ``click.style``, as a part of a line for :func:`echo`."""
    return click.style(printable_line(text), **style).replace("\x1b", _ESCAPE)


def rendered(line: str) -> str:
    """A line with its styles, as :func:`echo` prints it."""
    return printable_line(line).replace(_ESCAPE, "\x1b")


def echo(line: str = "", *, err: bool = False) -> None:
    """Print one line, to standard error if ``err`` is set."""
    click.echo(rendered(line), err=err)


def echo_lines(text: str) -> None:
    """Print a text of several lines, such as the output of a job."""
    for line in text.replace("\r\n", "\n").split("\n"):
        echo(line.expandtabs())


def echo_json(value: object) -> None:
    """Print a value as one line of JSON."""
    click.echo(json.dumps(value))


def complain(text: str, *, colour: str = "red") -> None:
    """Print a message of mr-celery to standard error."""
    echo(styled(f"mr-celery: {text}", fg=colour), err=True)
