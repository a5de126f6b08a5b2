"""The check: its findings without a server, a ledger or a broker."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from mr_celery.bridge.publisher import Publisher
from mr_celery.bridge.state import State
from mr_celery.errors import SettingsError
from mr_celery.handlers import Declaration, Handler
from mr_celery.job import Job
from mr_celery.ledger import BridgeProcess, Node, Nodes, Waiting
from mr_celery.operations.check import (
    LEAST_FREE,
    Finding,
    _check_broker,
    _check_server,
    _check_state,
    _filled,
    check,
)
from mr_celery.operations.status import Status
from mr_celery.settings import Settings


def found(*, with_audit: bool = False, **flags: str) -> list[Finding]:
    app = Celery("checked", broker="memory://", set_as_current=False)
    return list(check(app, flags, with_audit=with_audit))


def test_an_invalid_setting_ends_the_check() -> None:
    only = found(lease="soon")
    assert [(each.what, each.ok) for each in only] == [("settings", False)]
    assert "--lease: 'soon' is invalid" in only[0].detail
    assert only[0].hint == "correct it and run the check again"


def test_an_invalid_setting_is_also_reported_by_the_audit() -> None:
    findings = found(with_audit=True, lease="soon")
    assert [(each.what, each.ok) for each in findings] == [("settings", False), ("audit", False)]
    assert "--lease" in findings[1].hint


def test_missing_settings_are_reported_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODELREINS_TOKEN", "MODELREINS_LEDGER_URL"):
        monkeypatch.delenv(name, raising=False)
    findings = {each.what: each for each in found()}
    assert {what: each.ok for what, each in findings.items()} == {
        "settings": True,
        "token": False,
        "ledger": False,
        "broker": True,
        "handlers": False,
    }
    assert "MODELREINS_TOKEN" in findings["token"].hint
    assert "MODELREINS_LEDGER_URL" in findings["ledger"].hint


def test_defaults_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODELREINS_NAME", "MODELREINS_TOKEN", "MODELREINS_LEDGER_URL"):
        monkeypatch.delenv(name, raising=False)
    assert "(the host's name, since MODELREINS_NAME is not set), 0 handlers" in found()[0].detail
    assert "host's name" not in found(name="w")[0].detail


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, "; jobs fill prompt, size"),
        ({"fields": ("prompt",)}, "; jobs fill only prompt"),
        ({"fields": ("size", "prompt")}, "; jobs fill only prompt, size"),
        ({"arguments": dict}, ""),
    ],
    ids=str,
)
def test_the_parameters_that_jobs_fill_are_shown(options: dict[str, Any], shown: str) -> None:
    def run(job: Job, prompt: str, size: int = 3) -> None: ...

    assert _filled(Handler(SimpleNamespace(name="t", run=run), Declaration(**options))) == shown
    assert _filled(Handler(SimpleNamespace(name="t", run=lambda job: None), Declaration(**options))) == ""


def test_an_application_without_handlers_fails() -> None:
    (finding,) = [each for each in found(token="t") if each.what == "handlers"]
    assert not finding.ok
    assert "0 handlers in application 'checked'" in finding.detail


def test_a_forgotten_application_is_the_first_failure() -> None:
    (only,) = check(Celery("default", set_as_current=False), {})
    assert (only.what, only.ok) == ("application", False)
    assert "-A" in only.hint


def test_a_module_that_cannot_be_imported_is_named() -> None:
    app = Celery("checked", broker="memory://", set_as_current=False, include=["there_is_no_such_module"])
    (only,) = check(app, {})
    assert (only.what, only.ok) == ("application", False)
    assert "ModuleNotFoundError: No module named 'there_is_no_such_module'" in only.detail


def test_the_address_of_a_broker_that_cannot_be_read_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELREINS_LEDGER_URL", "redis://inside.the.test")
    app = Celery("checked", broker="redis://:hush/topsecret@host", set_as_current=False)
    finding = _check_broker(app)
    assert not finding.ok
    assert "percent-encoded" in finding.detail
    assert "hush" not in f"{finding}"
    with pytest.raises(SettingsError, match="percent-encoded") as refused:
        Publisher(app)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(("url", "warned"), [("http://mr.example", True), ("https://mr.example", False)])
def test_a_token_that_travels_in_clear_is_a_warning(url: str, warned: bool) -> None:
    findings = _check_server(Settings(token="t", url=url), is_default=False)
    assert next(findings).what == "token"
    if warned:
        finding = next(findings)
        assert (finding.what, finding.ok, finding.warning) == ("server", True, True)


@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o640, False), (0o600, False)])
def test_a_token_file_that_others_read_is_a_warning(tmp_path: Path, mode: int, warned: bool) -> None:
    path = tmp_path / "token"
    path.write_text("t")
    path.chmod(mode)
    finding = next(_check_server(Settings(token="t", token_file=str(path)), is_default=False))
    assert (finding.what, finding.ok, finding.warning) == ("token", True, warned)
    assert ("can be read by every user" in finding.detail) is warned


@pytest.mark.parametrize(("free", "ok"), [(LEAST_FREE, True), (LEAST_FREE - 1, False)])
def test_a_full_disk_of_the_spool_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, ok: bool
) -> None:
    monkeypatch.setenv("MODELREINS_SPOOL_URL", str(tmp_path / "spool"))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free))
    (finding,) = [each for each in found() if each.what == "spool"]
    assert finding.ok is ok
    assert ("its disk has only" in finding.detail) is not ok


def test_the_check_names_what_the_status_names() -> None:
    waiting = (
        Waiting("no_queue", "2 jobs wait for a queue", 2, 60.0),
        Waiting("full", "1 job waits for a slot", 1, 1.0),
    )
    bridges = [
        BridgeProcess("a:1", "a", "1.0", 60.0, at=100.0, app_version="1", handlers=("t (x)",), waiting=waiting),
        BridgeProcess("b:1", "b", "1.0", 60.0, at=100.0, app_version="2"),
    ]
    state = State("jobs_wait", "2 jobs wait for a queue", "start a worker")
    status = Status("w", 100.0, state, (), None, bridges, Nodes(), 0, 0, {}, None, None, {})
    findings = list(_check_state(status))
    assert [(each.what, each.ok, each.warning, each.detail.removeprefix("'w': ")) for each in findings] == [
        ("state", False, False, "2 jobs wait for a queue"),
        ("waiting jobs", True, False, "1 job waits for a slot"),
        *(("versions", True, True, difference) for difference in status.differences),
    ]
    assert len(status.differences) == 2


def processes(*versions: tuple[str, str]) -> Status:
    """A status with two bridges, then workers, with these versions of mr-celery and of the application."""
    bridges = [BridgeProcess(f"{n}:1", f"{n}", *v[:1], 60.0, app_version=v[1]) for n, v in enumerate(versions[:2])]
    nodes = Nodes(Node(f"w{n}@h", 1, ("q",), ("t",), *each) for n, each in enumerate(versions[2:]))
    return Status("w", 100.0, State("idle", "idle"), (), None, bridges, nodes, 0, 0, {}, None, None, {})


@pytest.mark.parametrize(
    ("versions", "differences"),
    [
        ([("1.0", "1.0")] * 4, []),
        ([("1.0", "1.0"), ("1.0", ""), ("1.0", "7")], []),
        (
            [("1.0", "1.0"), ("2.0", "2.0"), *[("2.0", "2.0")] * 4],
            ["versions of mr-celery differ: 1.0 in bridge 0:1; 2.0 in bridge 1:1, worker w0@h, worker w1@h and 2 more"],
        ),
        ([("1.0", "7"), ("1.0", "8")], ["versions of the application differ: 7 in bridge 0:1; 8 in bridge 1:1"]),
        (
            [("1.0", "7"), ("2.0", "8")],
            [
                "versions of mr-celery differ: 1.0 in bridge 0:1; 2.0 in bridge 1:1",
                "versions of the application differ: 7 in bridge 0:1; 8 in bridge 1:1",
            ],
        ),
    ],
)
def test_mixed_versions_are_named_with_their_processes(versions: list[tuple[str, str]], differences: list[str]) -> None:
    assert processes(*versions).differences == differences
