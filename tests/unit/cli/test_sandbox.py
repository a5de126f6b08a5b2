"""The options of ``mr-celery sandbox``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mr_celery.cli.main import main
from mr_celery.sandbox import ServerOptions


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of each sandbox that the command would run."""
    made: list[dict[str, Any]] = []
    monkeypatch.setattr("mr_celery.sandbox.run", lambda **arguments: made.append(arguments))
    for name in ("MODELREINS_TOKEN", "MODELREINS_TOKEN_FILE", "MODELREINS_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return made


def test_defaults_are_those_of_the_options(runs: list[dict[str, Any]]) -> None:
    assert CliRunner().invoke(main, ["sandbox"]).exit_code == 0
    assert (runs[0]["options"], runs[0]["api_key"], runs[0]["token"]) == (ServerOptions(), None, None)


def test_another_server(runs: list[dict[str, Any]]) -> None:
    words = ["--status-word", "done=completed", "--status-word", "aborted=cancelled"]
    times = ["--requeue-after", "0", "--link-seconds", "5"]
    options = ["--server-version", "4.5", *words, *times]
    done = CliRunner().invoke(main, ["sandbox", *options], env={"MODELREINS_API_KEY": "key"})
    assert done.exit_code == 0, done.output
    assert runs[0]["api_key"] == "key"
    assert runs[0]["options"] == ServerOptions(
        version="4.5", words={"done": "completed", "aborted": "cancelled"}, requeue_after=None, link_seconds=5.0
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--server-version", "4.4"], "must be 4.5 or later"),
        (["--status-word", "done"], "must be END=WORD"),
        (["--status-word", "done=running"], "cannot be the word for done"),
    ],
)
def test_invalid_options_are_one_line(runs: list[dict[str, Any]], options: list[str], message: str) -> None:
    done = CliRunner().invoke(main, ["sandbox", *options])
    assert done.exit_code == 1
    assert done.output.startswith("mr-celery: ")
    assert message in done.output
    assert runs == []


def test_tokens_come_from_files_or_the_environment(runs: list[dict[str, Any]], tmp_path: Path) -> None:
    for name in ("token", "key"):
        (tmp_path / name).write_text(f"{name}-in-a-file\n")
    files = ["--token-file", str(tmp_path / "token"), "--api-key-file", str(tmp_path / "key")]
    in_environment = {"MODELREINS_TOKEN": "token", "MODELREINS_API_KEY": "key"}
    for options, environment in (
        ([], {"MODELREINS_TOKEN_FILE": str(tmp_path / "token")}),
        ([], in_environment),
        (files, in_environment),
    ):
        assert CliRunner().invoke(main, ["sandbox", *options], env=environment).exit_code == 0
    found = [(run["token"], run["api_key"]) for run in runs]
    assert found == [("token-in-a-file", None), ("token", "key"), ("token-in-a-file", "key-in-a-file")]


def test_missing_token_file_is_one_line(runs: list[dict[str, Any]], tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["sandbox", "--token-file", str(tmp_path / "none")])
    assert (done.exit_code, runs) == (1, [])
    assert "cannot be read: No such file" in done.output


@pytest.mark.parametrize("command", sorted(main.commands))
def test_no_command_takes_a_secret_as_a_flag(command: str) -> None:
    names = {option for each in main.commands[command].params for option in each.opts}
    secret = {name for name in names if re.search("token|key|password|secret", name)}
    assert all(name.endswith("-file") for name in secret)
