"""Formats the output of ``mr-celery up``."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .terminal import styled

if TYPE_CHECKING:
    from ..local.up import Ready

COLOURS = {"up": "cyan", "worker": "green", "bridge": "magenta"}

_LEVEL = re.compile(r"\[\d{4}-\d\d-\d\d [\d:,]+: ([A-Z]+)(/|\])")
"""The beginning of a line of Celery's log format, with its level."""


class Output:
    """Prints lines of several processes, each with its name and colour. Errors are red, with their tracebacks.

    Args:
        echo: prints a line.
    """

    def __init__(self, echo: Callable[[str], object]) -> None:
        self._echo = echo
        self._in_error: dict[str, bool] = {}

    def __call__(self, name: str, line: str) -> None:
        level = _LEVEL.match(line)
        if level is not None:
            self._in_error[name] = level[1] in ("ERROR", "CRITICAL")
        failed = self._in_error.get(name, False) or line.startswith(("mr-celery: ", "exited with code"))
        shown = styled(line, fg="red") if failed and line else line
        self._echo(f"{styled(f'{name:<6} |', fg=COLOURS.get(name, 'cyan'))} {shown}")


def json_line(name: str, message: str, **fields: Any) -> str:
    """A line in JSON for a message that has no JSON of its own."""
    return json.dumps({"logger": name, "message": message, **fields})


def ready_fields(ready: Ready) -> dict[str, Any]:
    """The facts of a started installation, without its secrets."""
    return {
        "event": "ready",
        "worker_names": list(ready.worker_names),
        "url": ready.running.environment["MODELREINS_URL"],
    }


def ready_box(ready: Ready, *, in_working_folder: bool) -> list[str]:
    """The lines that ``up`` prints when all is ready: the page, and the variables for other terminals.

    A token is shown only for the sandbox.
    """
    running = ready.running
    variables = {
        name: value
        for name, value in sorted(running.environment.items())
        if ready.login_link or name not in ready.tokens
    }
    command = f"celery -A {running.app_name} modelreins"
    rule = styled("─" * 78, fg="cyan")
    lines = ["", rule, styled(f"ready for jobs of {', '.join(map(repr, ready.worker_names))}", bold=True)]
    if ready.login_link:
        lines += [f"log in to the sandbox's page (this link works once): {ready.login_link}"]
    lines += ["", "In another terminal" + (", in this folder:" if in_working_folder else ":"), ""]
    if in_working_folder:
        if ready.login_link:
            lines += [f'  {command} dispatch "hello" --wait']
        lines += [f"  {command} status", "", "In any other folder, first set:", ""]
    lines += [f"  export {name}={shlex.quote(value)}" for name, value in variables.items()]
    if not ready.login_link:
        lines += ["", f"and {' and '.join(sorted(ready.tokens))} as in this terminal."]
    return [*lines, "", rule, ""]
