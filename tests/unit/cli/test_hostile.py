"""Foreign texts on the terminal: no command prints their forged lines or control characters."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner

import mr_celery.cli
from mr_celery import modelreins_job
from mr_celery.cli import modelreins, terminal
from mr_celery.cli.output import Output, json_line
from mr_celery.errors import LedgerUnavailable, MrCeleryError, WorkerError
from mr_celery.ledger import BridgeProcess, Ledger, Node, Pause, Registration
from mr_celery.ledger.records import Trouble, Waiting
from mr_celery.operations.check import Finding
from mr_celery.operations.dispatch import Ended
from mr_celery.outcome import Outcome
from support.hostile import EVERYTHING, TEXTS, forged, unsafe
from support.ledgers import INSIDE, LATER, LedgerKit, fake_fleet, fake_kit

OWN_STYLES = re.compile(r"\x1b\[[0-9]+m")

Run = Callable[..., str]


@pytest.fixture(params=[True, False], ids=["colour", "no colour"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a command, and returns its output without its own styles."""
    app = Celery("listed", broker="memory://", set_as_current=False)
    app.conf.update(modelreins_ledger_url=INSIDE, modelreins_name="w", modelreins_url="http://server.test:8765")

    @modelreins_job("image.generate")
    @app.task(name="hostile.draw", shared=False)
    def draw() -> None: ...

    def run(*arguments: str, **options: Any) -> str:
        context = CLIContext(app=app, no_color=not request.param, workdir=None)
        done = CliRunner().invoke(modelreins, list(arguments), obj=context, color=request.param, **options)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert ("\x1b" in done.output) <= request.param
        return OWN_STYLES.sub("", done.output)

    return run


def assert_harmless(output: str, words: str = EVERYTHING) -> None:
    assert "begin" in output
    assert unsafe(output) == []
    assert forged(output) == []
    if "\x1b[31m" in words:
        assert "[31m" in output  # the harmless rest of a foreign style; our own styles have been removed


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> LedgerKit:
    return fake_kit(monkeypatch)


def announced(ledger: Ledger, words: str) -> None:
    """A bridge, a worker and a pause whose texts are foreign."""
    key = words.encode(errors="ignore").decode()  # keys of Redis have no lone surrogates
    trouble = Trouble(words, 7.0)
    bridge = BridgeProcess(
        id=key,
        host=words,
        version=words,
        uptime=1.0,
        at=ledger.survey().now,
        app_version=words,
        handlers=(words,),
        server=trouble,
        token=trouble,
        broker=trouble,
        requests=trouble,
        waiting=(Waiting("no_handler", words, 3, 60.0),),
    )
    ledger.announce_bridge(bridge, seconds=LATER)
    fake_fleet().announce(Node(key, 2, (words,), ("hostile.draw", words), words, words), seconds=LATER)
    ledger.pause(Pause(by=words, at=ledger.survey().now, why=words))


@pytest.mark.parametrize("words", [EVERYTHING, *TEXTS[:3]], ids=["everything", "lf", "cr", "crlf"])
def test_status(run: Run, kit: LedgerKit, words: str) -> None:
    kit.bring("finished", capability=words)
    kit.age(1, "finished", seconds=60)
    kit.make_due("finished", 1)
    kit.ledger.undelivered(kit.collect(), words, wait_seconds=LATER)
    announced(kit.ledger, words)
    assert_harmless(run("status"), words)
    assert unsafe(run("status", "--json"), kept="\n") == []


@pytest.mark.parametrize("words", [EVERYTHING, *TEXTS[:3]], ids=["everything", "lf", "cr", "crlf"])
def test_jobs(run: Run, kit: LedgerKit, words: str) -> None:
    key = kit.bring("running", capability=words)
    kit.ledger.finish(key, Outcome.failed(words, reason=words), deliver_seconds=LATER)
    waiting = kit.bring("sent", 2, capability=words)
    kit.ledger.requeue(2, waiting.task_id, words, wait_seconds=0)
    kit.ledger.defer(kit.bring("running", 3), nonce="first", seconds=LATER, note=words)
    announced(kit.ledger, words)
    for arguments in ((), ("1",), ("2",), ("3",)):
        output = run("jobs", *arguments)
        assert unsafe(output) == []
        assert forged(output) == []
        for line in run("jobs", *arguments, "--json").splitlines():
            assert line.isascii()
            assert json.loads(line)


def test_check(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(app: object, flags: object, *, with_audit: bool) -> Iterator[Finding]:
        for words in (EVERYTHING, *TEXTS):
            yield Finding("server", True, words)
            yield Finding("server", False, words, words)
            yield Finding("clock", True, words, words, warning=True)

    monkeypatch.setattr("mr_celery.operations.check.check", check)
    assert_harmless(run("check"))


def test_register(run: Run, kit: LedgerKit, monkeypatch: pytest.MonkeyPatch) -> None:
    tiers = {words.encode(errors="replace").decode(): words for words in (EVERYTHING, *TEXTS)}
    kit.ledger.note_registration(Registration("http://server.test:8765", tiers, 1.0))
    monkeypatch.setattr("mr_celery.operations.register", lambda *args, **options: EVERYTHING)
    assert_harmless(run("register", "--again", env={"MODELREINS_ADMIN_TOKEN": "x"}))

    def refuse(*args: object, **options: object) -> str:
        raise MrCeleryError(EVERYTHING)

    monkeypatch.setattr("mr_celery.operations.register", refuse)
    assert_harmless(run("register", "--again", env={"MODELREINS_ADMIN_TOKEN": "x"}))


@pytest.mark.parametrize("kind", [MrCeleryError, WorkerError, LedgerUnavailable])
@pytest.mark.parametrize("command", [("jobs",), ("status",), ("requeue", "1"), ("resume",), ("complete", "r")], ids=str)
def test_errors(run: Run, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], kind: type[MrCeleryError]) -> None:
    def fail(*args: object, **options: object) -> None:
        raise kind(EVERYTHING)

    for place in ("cli.operating.ledgers_of", "clients.Clients.ledgers", "clients.Clients.ledger", "completion.Caller"):
        monkeypatch.setattr(f"mr_celery.{place}", fail)
    assert_harmless(run(*command))


def test_changes_of_jobs(run: Run, kit: LedgerKit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "begin")
    kit.bring("sent", capability=EVERYTHING)
    assert_harmless(run("fail", "--state", "sent", "--yes", "--why", EVERYTHING.replace("\0", "")))


class Session:
    """A session in which each job ends with foreign texts."""

    def dispatch(self, fields: object) -> int:
        return 7

    def deadline(self, timeout: object) -> float:
        return 1.0

    def follow(self, job_id: int, *, until: float, changed: Any, trouble: Any) -> Ended:
        trouble(EVERYTHING)
        changed("running")
        return Ended(7, EVERYTHING, True, 1.0, f"Traceback:\r\n  line 1\n{EVERYTHING}\n", [EVERYTHING])


def test_dispatch(capsys: pytest.CaptureFixture[str]) -> None:
    session: Any = Session()
    dispatch_module = importlib.import_module("mr_celery.cli.dispatch")
    dispatch_module._one(session, {}, None, wait=True)
    dispatch_module._many(session, [{}, {}], None, wait=True)
    printed = capsys.readouterr()
    assert_harmless(printed.out)
    assert_harmless(printed.err)
    assert "\nTraceback:\n  line 1\nbegin" in printed.out  # outputs keep their lines


def test_up(capsys: pytest.CaptureFixture[str]) -> None:
    say = Output(terminal.echo)
    say("worker", "[2026-11-28 21:07:32,968: ERROR/MainProcess] wrong")
    for words in (EVERYTHING, *TEXTS):
        say("worker", words)
        terminal.echo(json_line("worker", words))
    assert_harmless(capsys.readouterr().out)


def test_a_style_of_our_own_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    context = click.Context(click.Command("x"), color=True)
    with context:
        terminal.echo(f"a {terminal.styled(f'b{EVERYTHING}', fg='red')} c")
        terminal.complain("d")
    printed = capsys.readouterr()
    assert printed.out.count("\x1b") == 2
    assert printed.out.startswith("a \x1b[31mbbegin")
    assert printed.err == "\x1b[31mmr-celery: d\x1b[0m\n"


def test_all_commands_print_through_one_module() -> None:
    folder = Path(mr_celery.cli.__file__).parent
    for path in folder.glob("*.py"):
        found = re.findall(
            r"click\.s?echo\(|click\.style\(|ctx\.obj\.(?:echo|error|style)\b|\bprint\(", path.read_text()
        )
        assert not found or path.name == "terminal.py", path
