"""The command ``check``: its lines and its exit code."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result

from mr_celery.cli import modelreins
from mr_celery.operations.check import Finding


def run_check(monkeypatch: pytest.MonkeyPatch, findings: list[Finding], *arguments: str) -> Result:
    def check(app: object, flags: dict[str, object], *, with_audit: bool) -> Iterator[Finding]:
        yield from findings
        if with_audit:
            yield Finding("audit", True, "agree")

    monkeypatch.setattr("mr_celery.operations.check.check", check)
    context = CLIContext(app=Celery("checked", set_as_current=False), no_color=True, workdir=None)
    return CliRunner().invoke(modelreins, ["check", *arguments], obj=context)


def test_prints_one_line_for_each_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_check(monkeypatch, [Finding("broker", True, "memory://", "unused")], "--audit")
    assert click.unstyle(result.output).splitlines() == [
        "broker       ok       memory://",
        "audit        ok       agree",
        "",
        "2 checks, none failed",
    ]
    assert result.exit_code == 0


def test_failures_come_last_with_their_hints_and_exit_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [
        Finding("token", False, "not set", "set it"),
        Finding("clock", True, "late", "set up NTP", warning=True),
        Finding("broker", True, "x"),
    ]
    result = run_check(monkeypatch, findings)
    assert click.unstyle(result.output).splitlines() == [
        "clock        warning  late",
        "                      → set up NTP",
        "broker       ok       x",
        "token        FAILED   not set",
        "                      → set it",
        "",
        "1 of 3 checks FAILED, 1 warning",
    ]
    assert result.exit_code == 1


def test_a_warning_is_not_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_check(monkeypatch, [Finding("clock", True, "late", "set up NTP", warning=True)])
    assert result.output.splitlines()[-1] == "1 check, none failed, 1 warning"
    assert result.exit_code == 0
