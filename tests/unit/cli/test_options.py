"""The options of ``mr-celery`` next to those of Celery's own command."""

from __future__ import annotations

import click
import pytest
from celery.bin.celery import celery
from click.testing import CliRunner

from mr_celery.cli import main

CELERYS = {parameter.name: parameter for parameter in celery.params if parameter.name != "version"}


@pytest.mark.parametrize("name", CELERYS)
def test_each_global_option_of_celery_exists(name: str) -> None:
    (own,) = [parameter for parameter in main.params if parameter.name == name]
    assert set(own.opts) == set(CELERYS[name].opts)
    if name != "no_color":  # NO_COLOR may have any value, which click would refuse
        assert own.envvar == CELERYS[name].envvar


def test_any_value_of_no_color_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "any")
    context = main.make_context("mr-celery", ["sandbox", "--help"])
    with context, pytest.raises(click.exceptions.Exit):
        main.invoke(context)
    assert context.color is False


SECRET = "redis://:pass-word@localhost:1/0"
WARNINGS = [
    (["-b", SECRET, "sandbox"], "--broker: set CELERY_BROKER_URL instead"),
    (["--result-backend", "redis://u:pass-word@h", "sandbox"], "--result-backend: set CELERY_RESULT_BACKEND instead"),
    (["status", "--ledger-url", SECRET], "--ledger-url: set MODELREINS_LEDGER_URL instead"),
    (["bridge", "--ledger-url", "redis+socket:///s?password=pass-word"], "--ledger-url: set MODELREINS_LEDGER_URL"),
    (["-b", "redis://localhost:1/0", "sandbox"], ""),
    (["status", "--ledger-url", "redis://user@localhost:1/0"], ""),
    (["sandbox"], ""),
]


@pytest.mark.parametrize(("arguments", "warning"), WARNINGS)
def test_a_password_on_the_command_line_is_a_warning(
    arguments: list[str], warning: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mr_celery.sandbox.run", lambda **_: None)
    for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "APP"):
        monkeypatch.setenv(name, SECRET if name == "CELERY_BROKER_URL" and "-b" not in arguments else "")
    done = CliRunner().invoke(main, arguments)
    assert ("the list of processes shows the password in" in done.output) == bool(warning)
    assert warning in done.output
    assert "pass-word" not in done.output
