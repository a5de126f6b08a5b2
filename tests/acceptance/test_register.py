"""An administrator registers the worker with what its code declares, and again when that has changed."""

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
    """From now on the code declares these capabilities, each with its risk tier."""
    fleet.environment["PROJ_DECLARES"] = json.dumps(capabilities)


def command_of(*options: str) -> list[str]:
    return [str(BIN / "celery"), "-A", "support.proj_declares", "modelreins", *options]


def register(
    fleet: Fleet, *options: str, token: str | None = None, typed: str = "", code: int = 0
) -> tuple[str, list[str]]:
    """What the command prints, and the lines of its warnings and errors; no token is in either.

    Args:
        fleet: the installation.
        options: of the command.
        token: the admin token in the environment; default: the right one; empty: none.
        typed: the standard input.
        code: what the command exits with.
    """
    admin = fleet.sandbox.token if token is None else token
    done = subprocess.run(
        command_of("register", *options),
        env={**fleet.environment, "MODELREINS_ADMIN_TOKEN": admin},
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    for secret in (fleet.sandbox.token, admin, typed.strip()):
        assert not secret or secret not in done.stdout + done.stderr
    return done.stdout, done.stderr.splitlines()


def check(fleet: Fleet) -> str:
    """What `check` says of the registration."""
    done = subprocess.run(command_of("check"), env=fleet.environment, capture_output=True, text=True, timeout=60)
    return done.stdout[done.stdout.index("\nregistered ") + 1 :]


def test_what_the_code_declares_is_registered_and_what_has_changed_since_is_told(proj: Fleet) -> None:
    assert re.search(r"^registered +ok +\S+ never", check(proj))
    told, warned = register(proj)
    assert "never registered by this command\n  + image.generate (audit)\n  + text.new (auto)\n" in told
    assert "registered with 2 capabilities" in told
    assert len(re.findall(VIEW_URL, told, re.MULTILINE)) == 1
    assert "shown once" in told
    assert warned == []
    assert re.search(r"^registered +ok +\S+ as declared, \d", check(proj))

    told, _ = register(proj, token="")  # nothing to do needs no token
    assert "registered as declared" in told
    assert "nothing to do; --again" in told
    assert not re.search(VIEW_URL, told, re.MULTILINE)
    told, _ = register(proj, "--again")
    assert re.search(VIEW_URL, told, re.MULTILINE)

    declares(proj, {"image.generate": "approve", "text.newer": None})
    changes = re.escape("~ image.generate: audit → approve, - text.new, + text.newer (auto)")
    assert re.search(rf"^registered +FAILED .*: {changes}\n +→ .*register", check(proj))
    told, _ = register(proj)
    assert "  ~ image.generate: audit → approve\n  - text.new\n  + text.newer (auto)\n" in told
    assert re.search(VIEW_URL, told, re.MULTILINE)
    assert re.search(r"^registered +ok +\S+ as declared", check(proj))


def test_a_dry_run_prints_the_request_and_sends_nothing(proj: Fleet) -> None:
    told, _ = register(proj, "--dry-run", "--description", "renders", "--name", "other", token="")
    head, _, request = told.partition("POST ")
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


def test_without_a_declared_capability_none_is_registered_and_that_is_said(proj: Fleet) -> None:
    declares(proj, {})
    told, (warning,) = register(proj)
    assert "no handler declares a capability" in warning
    assert "registered with no capabilities" in told


def test_a_token_may_come_from_the_standard_input(proj: Fleet) -> None:
    told, warned = register(proj, token="", typed=f"{proj.sandbox.token}\n")
    assert re.search(VIEW_URL, told, re.MULTILINE)
    assert warned == []


class Terminal:
    """The command in a pseudo-terminal, with what somebody sees there."""

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
        with suppress(OSError):  # nothing new, or it has ended
            while more := os.read(self._seen, 65536):
                self._text += more.decode()
        return self._text

    def type(self, text: str) -> None:
        os.write(self._seen, text.encode())

    def ends(self) -> int:
        """Wait for its end; what it exits with."""

        def over() -> bool:
            assert self.text  # what is not read may keep it from ending
            return self.process.poll() is not None

        until(over, what="it ends")
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._seen)


@pytest.fixture
def terminal(proj: Fleet) -> Iterator[Terminal]:
    """The command, asking for the token."""
    proj.environment["MODELREINS_TIMEOUT"] = "2"
    proj.environment.pop("MODELREINS_ADMIN_TOKEN", None)
    made = Terminal(proj)
    until(lambda: "Admin token: " in made.text, what="it asks")
    yield made
    made.close()


def command_lines() -> list[bytes]:
    """Those of all processes."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(file.read_bytes())
    return found


def test_a_token_is_asked_for_unseen(proj: Fleet, terminal: Terminal) -> None:
    terminal.type(f"{proj.sandbox.token}\n")
    assert terminal.ends() == 0
    assert "/view/" in terminal.text
    assert proj.sandbox.token not in terminal.text


def test_while_it_registers_the_token_is_in_no_list_of_processes(proj: Fleet, terminal: Terminal) -> None:
    proj.sandbox.chaos.set([Rule("hang", routes=("register",))])
    terminal.type(f"{proj.sandbox.token}\n")
    until(lambda: proj.sandbox.chaos.counts, what="the request is under way")
    lines = command_lines()
    assert any(line.endswith(b"\0modelreins\0register\0") for line in lines)
    assert not any(proj.sandbox.token.encode() in line for line in lines)
    proj.sandbox.chaos.clear()
    assert terminal.ends() == 1
    assert "whether the worker is registered now is not known" in terminal.text


def test_a_token_is_no_argument(proj: Fleet) -> None:
    for option in ("--token", "--admin-token"):
        _, said = register(proj, option, "secret", code=2)
        assert any("No such option" in line for line in said)


def test_what_goes_wrong_is_told_in_one_line(proj: Fleet) -> None:
    told, (error,) = register(proj, token="wrong-token", code=1)
    assert "refuses the admin token (401)" in error
    assert not re.search(VIEW_URL, told, re.MULTILINE)
    assert "there is no admin token" in register(proj, token="", code=1)[1][0]
    (error,) = register(proj, "--url", "http://127.0.0.1:1", code=1)[1]
    assert "network" in error
    proj.sandbox.chaos.set([Rule("html", routes=("register",))])
    (error,) = register(proj, code=1)[1]
    assert "is not known" in error
    proj.sandbox.chaos.clear()
    assert "never registered" in register(proj, "--dry-run")[0]  # none of these counts as registered


def test_an_absent_ledger_costs_the_comparison_only(proj: Fleet) -> None:
    told, (warning,) = register(proj, "--ledger-url", "redis://127.0.0.1:1/0")
    assert "the ledger at redis://127.0.0.1:1/0" in warning
    assert re.search(VIEW_URL, told, re.MULTILINE)
