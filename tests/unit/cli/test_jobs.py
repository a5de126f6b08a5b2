"""``jobs``, ``requeue`` and ``fail``: their output, their questions and their exit codes."""

from __future__ import annotations

import io
import json

import click
import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result

from mr_celery.cli import main, modelreins
from mr_celery.outcome import Outcome
from support.ledgers import INSIDE, LATER, LedgerKit, fake_kit


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> LedgerKit:
    return fake_kit(monkeypatch)


class Terminal(io.BytesIO):
    """An input that is a terminal."""

    def isatty(self) -> bool:
        return True


def run(*arguments: str, answer: str | None = None) -> Result:
    """Run a command on the ledger. With an answer, its input is a terminal into which the answer is typed."""
    app = Celery("listed", broker="memory://", set_as_current=False)
    app.conf.update(modelreins_ledger_url=INSIDE, modelreins_name="w", modelreins_url="http://server.test:8765")
    context = CLIContext(app=app, no_color=True, workdir=None)
    typed = None if answer is None else Terminal(answer.encode())
    return CliRunner().invoke(modelreins, list(arguments), obj=context, input=typed)


def failing(kit: LedgerKit, job_id: int, reason: str, **fields: object) -> None:
    outcome = Outcome.failed("a secret result", reason=reason)
    kit.ledger.finish(kit.bring("running", job_id, **fields), outcome, deliver_seconds=LATER)  # type: ignore[arg-type]
    assert kit.close(job_id)


def test_a_list_names_capability_task_attempt_and_reason(kit: LedgerKit) -> None:
    failing(kit, 7, "ValueError", capability="image.generate", prompt="a secret prompt")
    result = run("jobs")
    head, row = result.output.splitlines()
    assert head.split() == ["job", "state", "capability", "task", "time", "attempt", "reason"]
    assert row.split()[:4] == ["7", "failed", "image.generate", "proj.upper"]
    assert row.endswith("1 of 3   ValueError")
    assert "secret" not in result.output
    (fields,) = map(json.loads, run("jobs", "--json").output.splitlines())
    assert (fields["capability"], fields["reason"], fields["state"]) == ("image.generate", "ValueError", "failed")


def test_escape_sequences_cannot_reach_the_terminal(kit: LedgerKit) -> None:
    failing(kit, 7, "Evil\x1b[2J\u202eError\nx", capability="a\x1b]0;title\x07\nb")
    for output in (run("jobs").output, run("jobs", "7").output):
        assert all(each.isprintable() for line in output.split("\n") for each in line)
    assert "Evil [2J Error x" in run("jobs").output


def test_a_history_wraps_at_words_with_a_hanging_indent(kit: LedgerKit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    failing(kit, 7, "word " * 30, capability="image.generate")
    result = run("jobs", "7")
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("job 7  failed")
    first, second = lines[1:3]
    assert first.startswith("reason: word word")
    assert second.startswith("        word word")
    assert "output: http://server.test:8765/jobs/7 or on the server's page" in lines
    assert "capability: image.generate" in lines
    note = next(line.index("failed: word") for line in lines if "failed: word" in line)
    wrapped = [line for line in lines if line.startswith(" " * note + "word")]
    assert len(wrapped) > 1


def test_the_output_of_a_job_in_flight_has_no_address_yet(kit: LedgerKit) -> None:
    kit.bring("running", 7)
    assert "output:" not in run("jobs", "7").output


@pytest.mark.parametrize(
    "arguments",
    [("jobs", "--since", "soon"), ("jobs", "7", "--state", "failed"), ("requeue",), ("requeue", "1", "--task", "x")],
)
def test_wrong_options_exit_with_2(kit: LedgerKit, arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


def test_selected_jobs_are_previewed_and_changed_after_a_question(kit: LedgerKit) -> None:
    for job_id in range(1, 15):
        kit.bring("sent", job_id)
    kit.bring("finished", 20)
    refused = run("requeue", "--task", "proj.upper", answer="n\n")
    assert refused.exit_code == 1
    assert "… and 4 other jobs" in refused.output
    assert "Requeue 14 jobs? [y/N]" in refused.output
    assert "nothing was changed" in refused.output
    assert kit.record(1).attempt == 1
    accepted = run("requeue", "--task", "proj.upper", answer="y\n")
    assert accepted.exit_code == 0
    assert accepted.output.count("was sent: attempt 2 is sent now") == 14
    assert accepted.output.splitlines()[-1] == "14 of 14 jobs requeued"
    assert kit.record(20).state == "finished"


def test_without_a_terminal_nothing_changes_unless_yes_is_given(kit: LedgerKit) -> None:
    kit.bring("sent", 1)
    kit.bring("running", 2)
    refused = run("fail", "--since", "1h", "--why", "x")
    assert refused.exit_code == 2
    assert refused.output.splitlines()[-1] == (
        "mr-celery: 2 jobs would be failed, but there is no terminal to confirm it: add --yes"
    )
    assert kit.state(1) == "sent"
    assert run("fail", "--since", "1h", "--why", "x", "--yes").exit_code == 0
    assert (kit.state(1), kit.state(2)) == ("finished", "finished")


def test_one_job_that_cannot_be_changed_does_not_stop_the_others(kit: LedgerKit) -> None:
    kit.bring("sent", 1)
    failing(kit, 2, "ValueError")
    kit.bring("sent", 3)
    result = run("requeue", "1", "2", "99", "3")
    assert result.exit_code == 1
    assert "job 2 cannot be requeued: it has ended (failed). Only the server starts an ended job again" in result.output
    assert "job 99 is not in the ledger" in result.output
    assert result.output.splitlines()[-1] == "2 of 4 jobs requeued"
    assert (kit.record(1).attempt, kit.record(3).attempt) == (2, 2)


def test_jobs_that_have_all_ended_are_shown_and_not_asked_about(kit: LedgerKit) -> None:
    failing(kit, 1, "ValueError")
    failing(kit, 2, "KeyError")
    result = run("requeue", "--state", "failed", answer="")
    assert result.exit_code == 1
    assert "KeyError" in result.output
    assert "2 jobs selected, but they have all ended and cannot be requeued. Only the server starts" in result.output
    assert "[y/N]" not in result.output


def test_the_number_of_selected_jobs_is_limited(kit: LedgerKit) -> None:
    for job_id in (1, 2, 3):
        kit.bring("sent", job_id)
    result = run("requeue", "--state", "sent", "--limit", "2", "--yes")
    assert "These are the first 2; --limit allows more." in result.output
    assert [kit.record(job_id).attempt for job_id in (1, 2, 3)] == [2, 2, 1]


def test_an_empty_selection_is_not_a_failure(kit: LedgerKit) -> None:
    result = run("fail", "--task", "nix", "--why", "x")
    assert (result.exit_code, result.output) == (0, "no job is selected\n")


def test_an_unreachable_ledger_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Celery("listed", broker="memory://", set_as_current=False)
    app.conf.update(modelreins_ledger_url="redis://127.0.0.1:1/0", modelreins_name="w")
    context = CLIContext(app=app, no_color=True, workdir=None)
    result = CliRunner().invoke(modelreins, ["requeue", "1", "2", "3"], obj=context)
    assert result.exit_code == 1
    error, advice = result.output.splitlines()
    assert error.startswith("mr-celery: the ledger at redis://127.0.0.1:1/0: ")
    assert advice == "→ start its Redis, or correct MODELREINS_LEDGER_URL"


@pytest.mark.parametrize("command", main.commands.values(), ids=lambda each: each.name)
def test_command_lists_show_whole_help_texts(command: click.Command) -> None:
    assert "..." not in command.get_short_help_str(45)
