"""Errors of commands, as lines."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from mr_celery.cli import main
from mr_celery.cli.operating import one_line_errors
from mr_celery.errors import MrCeleryError


@pytest.mark.parametrize("flags", [(), ("-C",)], ids=["colour", "no colour"])
def test_a_bridge_that_cannot_start_prints_one_line(monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]) -> None:
    monkeypatch.setenv("MODELREINS_TOKEN", '"quoted"')
    monkeypatch.setenv("PROJ_BROKER", "memory://")
    done = CliRunner().invoke(main, [*flags, "-A", "support.proj_bare", "bridge"])
    assert done.output.splitlines() == ["mr-celery: MODELREINS_TOKEN: the token is in quotes: set it without them"]
    assert done.exit_code == 1


def test_foreign_words_in_an_error_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), one_line_errors():
        raise MrCeleryError("POST /dispatch -> 403: \x1b[2Jgone\u202e")
    assert capsys.readouterr().err == "mr-celery: POST /dispatch -> 403:  [2Jgone \n"
