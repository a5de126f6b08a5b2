"""Presence: what the server is told, and how often."""

from __future__ import annotations

from typing import Any, cast

import pytest

from mr_celery.bridge.heartbeat import REJECTED_PACE, Heartbeat
from mr_celery.errors import LedgerUnavailable, WorkerError
from support.ledgers import Desk, FakeServer, make_desk, refusal


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    return make_desk(monkeypatch, heartbeat_interval=5.0)


@pytest.fixture
def server() -> FakeServer:
    """The heartbeat's own way to the server."""
    return FakeServer()


@pytest.fixture
def heartbeat(desk: Desk, server: FakeServer) -> Heartbeat:
    return Heartbeat(desk.office, cast(Any, server))


def test_presence_tells_the_state_of_work_and_the_declared_capabilities(
    desk: Desk, server: FakeServer, heartbeat: Heartbeat
) -> None:
    for job_id, state in enumerate(["admitted", "claimed", "sent", "running", "finished", "closed"], 1):
        desk.bring(state, job_id)
    heartbeat.run_once()
    assert server.asked("presence") == [("active", "in flight 5, waiting 2, capacity 8", "slow,text.upper")]


def test_presence_is_reported_in_the_pace_that_was_asked_for(heartbeat: Heartbeat) -> None:
    assert heartbeat.run_once() == 5.0


def test_a_slow_answer_does_not_slow_the_pace(desk: Desk, server: FakeServer, heartbeat: Heartbeat) -> None:
    server.faults["presence"] = [lambda: desk.clock.advance(3.0), lambda: desk.clock.advance(60.0)]
    assert heartbeat.run_once() == 2.0
    assert heartbeat.run_once() == 0.0


def test_presence_is_reported_while_the_ledger_is_away(
    desk: Desk, server: FakeServer, heartbeat: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: Any) -> Any:
        raise LedgerUnavailable("away")

    monkeypatch.setattr(desk.office.ledger, "survey", away)
    assert heartbeat.run_once() == 5.0
    assert server.asked("presence") == [("active", "ledger away", "slow,text.upper")]


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_slows_the_pace_and_stops_the_claiming(
    desk: Desk, server: FakeServer, heartbeat: Heartbeat, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    server.faults["presence"] = [refusal(status)] * 3
    assert [heartbeat.run_once() for _ in range(3)] == [5.0 * REJECTED_PACE] * 3
    assert desk.office.token_rejected.is_set()
    assert caplog.text.count("refuses the token") == 1


def test_a_token_that_is_taken_again_restores_the_pace_and_the_claiming(
    desk: Desk, server: FakeServer, heartbeat: Heartbeat
) -> None:
    server.faults["presence"] = [refusal(401)]
    heartbeat.run_once()
    assert heartbeat.run_once() == 5.0
    assert not desk.office.token_rejected.is_set()


@pytest.mark.parametrize("status", [None, 404, 429, 500, 503])
def test_another_failure_is_the_loops_to_repeat_and_says_nothing_of_the_token(
    desk: Desk, server: FakeServer, heartbeat: Heartbeat, status: int | None
) -> None:
    server.faults["presence"] = [refusal(status)]
    with pytest.raises(WorkerError):
        heartbeat.run_once()
    assert not desk.office.token_rejected.is_set()


def test_a_bridge_that_leaves_says_that_it_is_idle(server: FakeServer, heartbeat: Heartbeat) -> None:
    heartbeat.leave()
    assert server.asked("presence") == [("idle", "bridge stopped", "slow,text.upper")]


@pytest.mark.parametrize("status", [None, 401, 503])
def test_a_last_presence_that_is_not_taken_stops_nothing(
    server: FakeServer, heartbeat: Heartbeat, status: int | None
) -> None:
    server.faults["presence"] = [refusal(status)]
    heartbeat.leave()
    assert len(server.asked("presence")) == 1
