"""An administrator registers the worker with its declared capabilities, and again after they have changed."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mr_celery.sandbox import Rule
from support import fork_server
from support.fleet import BIN, Fleet
from support.ports import until

DECLARED = {"image.generate": "audit", "text.new": None}
VIEW_URL = r"^http://127\.0\.0\.1:\d+/view/\S+$"


@pytest.fixture
def proj(fleet: Fleet) -> Fleet:
    """An installation whose code declares :data:`DECLARED`. Its worker token is not the admin token."""
    fleet.app = "support.proj_declares"
    declares(fleet, DECLARED)
    fleet.environment["MODELREINS_TOKEN"] = "not-for-registering"
    return fleet


def declares(fleet: Fleet, capabilities: dict[str, str | None]) -> None:
    """Change the declared capabilities, given with their risk tiers."""
    fleet.environment["PROJ_DECLARES"] = json.dumps(capabilities)


def command_of(*options: str) -> list[str]:
    return [str(BIN / "celery"), "-A", "support.proj_declares", "modelreins", *options]


def register(
    fleet: Fleet, *options: str, token: str | None = None, typed: str = "", code: int = 0
) -> tuple[str, list[str]]:
    """Run the command. Returns its output, and its lines of warnings and errors. Neither may contain a token.

    Args:
        fleet: the installation.
        options: options of the command.
        token: the admin token in the environment; ``None`` for the right one, empty for none.
        typed: the standard input.
        code: the expected exit code.
    """
    admin = fleet.sandbox.token if token is None else token
    done = fork_server.run(
        command_of("register", *options),
        env={**fleet.environment, "MODELREINS_ADMIN_TOKEN": admin},
        input=typed,
        timeout=60,
    )
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    for secret in (fleet.sandbox.token, admin, typed.strip()):
        assert not secret or secret not in done.stdout + done.stderr
    return done.stdout, done.stderr.splitlines()


def check(fleet: Fleet) -> str:
    """The line of `check` about the registration, and those below it."""
    done = fork_server.run(command_of("check"), env=fleet.environment, timeout=60)
    return done.stdout[done.stdout.index("\nregistered ") + 1 :]


def test_registers_the_declared_capabilities_and_shows_later_changes(proj: Fleet) -> None:
    assert re.search(r"^registered +ok +\S+ never", check(proj))
    output, warned = register(proj)
    assert "never registered by this command\n  + image.generate (audit)\n  + text.new (auto)\n" in output
    assert "registered with 2 capabilities" in output
    assert len(re.findall(VIEW_URL, output, re.MULTILINE)) == 1
    assert "can be opened only once" in output
    assert warned == []
    assert re.search(r"^registered +ok +\S+ as declared, \d", check(proj))

    output, _ = register(proj, token="")  # without changes no token is needed
    assert "registered as declared" in output
    assert "nothing to do; use --again" in output
    assert not re.search(VIEW_URL, output, re.MULTILINE)
    output, _ = register(proj, "--again")
    assert re.search(VIEW_URL, output, re.MULTILINE)

    declares(proj, {"image.generate": "approve", "text.newer": None})
    changes = re.escape("~ image.generate: audit → approve, - text.new, + text.newer (auto)")
    assert re.search(rf"^registered +FAILED .*: {changes}\n +→ .*register", check(proj))
    output, _ = register(proj)
    assert "  ~ image.generate: audit → approve\n  - text.new\n  + text.newer (auto)\n" in output
    assert re.search(VIEW_URL, output, re.MULTILINE)
    assert re.search(r"^registered +ok +\S+ as declared", check(proj))


def test_dry_run_prints_the_request_and_sends_nothing(proj: Fleet) -> None:
    output, _ = register(proj, "--dry-run", "--description", "renders", "--name", "other", token="")
    head, _, request = output.partition("POST ")
    assert "+ image.generate (audit)" in head
    url, _, body = request.partition("\n")
    assert url == f"{proj.sandbox.url}/api/v1/workers/register"
    assert json.loads(body) == {
        "name": "other",
        "description": "renders",
        "capabilities": [
            {"name": "image.generate", "risk_tier": "audit"},
            {"name": "text.new", "risk_tier": "auto"},
        ],
    }
    assert "never" in register(proj, "--dry-run")[0]


def test_without_capabilities_it_warns_and_registers_none(proj: Fleet) -> None:
    declares(proj, {})
    output, (warning,) = register(proj)
    assert "no handler declares a capability" in warning
    assert "registered with no capabilities" in output


def test_token_from_standard_input(proj: Fleet) -> None:
    output, warned = register(proj, token="", typed=f"{proj.sandbox.token}\n")
    assert re.search(VIEW_URL, output, re.MULTILINE)
    assert warned == []


class Terminal:
    """The command in a pseudo-terminal."""

    def __init__(self, fleet: Fleet) -> None:
        self._seen, given = pty.openpty()
        os.set_blocking(self._seen, False)
        self._text = ""
        self.process = subprocess.Popen(
            command_of("register"),
            env=fleet.environment,
            stdin=given,
            stdout=given,
            stderr=given,
            start_new_session=True,
        )
        os.close(given)

    @property
    def text(self) -> str:
        with suppress(OSError):  # no new output, or the command has ended
            while more := os.read(self._seen, 65536):
                self._text += more.decode()
        return self._text

    def type(self, text: str) -> None:
        os.write(self._seen, text.encode())

    def ends(self) -> int:
        """Wait for its end, and return the exit code."""

        def over() -> bool:
            assert self.text  # read the output: a full buffer would block the command
            return self.process.poll() is not None

        until(over, what="the command ends")
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._seen)


@pytest.fixture
def terminal(proj: Fleet) -> Iterator[Terminal]:
    """The command at its prompt for the token."""
    proj.environment["MODELREINS_TIMEOUT"] = "2"
    proj.environment.pop("MODELREINS_ADMIN_TOKEN", None)
    made = Terminal(proj)
    until(lambda: "Admin token: " in made.text, what="the command prompts")
    yield made
    made.close()


def command_lines() -> list[bytes]:
    """The command lines of all processes."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(file.read_bytes())
    return found


def test_token_prompt_does_not_echo(proj: Fleet, terminal: Terminal) -> None:
    terminal.type(f"{proj.sandbox.token}\n")
    assert terminal.ends() == 0
    assert "/view/" in terminal.text
    assert proj.sandbox.token not in terminal.text


def test_token_is_not_in_any_process_list(proj: Fleet, terminal: Terminal) -> None:
    proj.sandbox.chaos.set([Rule("hang", routes=("register",))])
    terminal.type(f"{proj.sandbox.token}\n")
    until(lambda: proj.sandbox.chaos.counts, what="the request is under way")
    lines = command_lines()
    assert any(line.endswith(b"\0modelreins\0register\0") for line in lines)
    assert not any(proj.sandbox.token.encode() in line for line in lines)
    proj.sandbox.chaos.clear()
    assert terminal.ends() == 1
    assert "the worker may or may not be registered now" in terminal.text


def test_token_cannot_be_given_as_an_option(proj: Fleet) -> None:
    for option in ("--token", "--admin-token"):
        _, errors = register(proj, option, "secret", code=2)
        assert any("No such option" in line for line in errors)


def test_errors_are_one_line(proj: Fleet) -> None:
    output, (error,) = register(proj, token="wrong-token", code=1)
    assert "refused the admin token (401)" in error
    assert not re.search(VIEW_URL, output, re.MULTILINE)
    assert "no admin token" in register(proj, token="", code=1)[1][0]
    (error,) = register(proj, "--url", "http://127.0.0.1:1", code=1)[1]
    assert "network" in error
    proj.sandbox.chaos.set([Rule("html", routes=("register",))])
    (error,) = register(proj, code=1)[1]
    assert "may or may not be registered" in error
    proj.sandbox.chaos.clear()
    assert "never registered" in register(proj, "--dry-run")[0]  # no failure counts as a registration


def test_without_a_ledger_it_registers_without_comparing(proj: Fleet) -> None:
    output, (warning,) = register(proj, "--ledger-url", "redis://127.0.0.1:1/0")
    assert "the ledger at redis://127.0.0.1:1/0" in warning
    assert re.search(VIEW_URL, output, re.MULTILINE)
