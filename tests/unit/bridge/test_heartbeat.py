"""Presence: what the server is told, and how often."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from mr_celery.bridge.heartbeat import REJECTED_PACE, SIDE_BY_SIDE, Heartbeat
from mr_celery.bridge.office import TOKEN_LAPSES, TOKEN_PAUSE
from mr_celery.errors import LedgerUnavailable, WorkerError
from mr_celery.ledger import Fleet, Ledger
from support.ledgers import INSIDE, Desk, FakeServer, make_desk, refusal


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    return make_desk(monkeypatch, heartbeat_interval=5.0)


@pytest.fixture
def server() -> FakeServer:
    """The heartbeat's own way to the server."""
    return FakeServer()


@pytest.fixture
def ledger(desk: Desk) -> Ledger:
    """The heartbeat's own way to the ledger."""
    return Ledger(INSIDE, "w")


@pytest.fixture
def fleet(desk: Desk) -> Fleet:
    """The heartbeat's own way to the register of workers."""
    return Fleet(INSIDE)


@pytest.fixture
def heartbeat(desk: Desk, server: FakeServer, ledger: Ledger, fleet: Fleet) -> Heartbeat:
    return Heartbeat(desk.office, cast(Any, server), ledger, fleet)


def away(*args: Any, **kwargs: Any) -> Any:
    raise LedgerUnavailable("away")


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


@pytest.mark.parametrize("part", ["ledger", "fleet"])
def test_presence_is_reported_while_the_ledger_is_away(
    request: pytest.FixtureRequest,
    server: FakeServer,
    heartbeat: Heartbeat,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
) -> None:
    monkeypatch.setattr(request.getfixturevalue(part), "survey" if part == "ledger" else "online", away)
    assert heartbeat.run_once() == 5.0
    assert server.asked("presence") == [("active", "ledger away", "slow,text.upper")]


def test_presence_asks_only_on_its_own_connections(
    desk: Desk, server: FakeServer, heartbeat: Heartbeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk.office.ledger, "survey", away)
    monkeypatch.setattr(desk.office.fleet, "online", away)
    heartbeat.run_once()
    assert desk.server.calls == []
    assert server.asked("presence") == [("active", "in flight 0, waiting 0, capacity 8", "slow,text.upper")]


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_refused_again_and_again_slows_the_pace_and_stops_the_claiming(
    desk: Desk, server: FakeServer, heartbeat: Heartbeat, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    server.faults["presence"] = [refusal(status)] * (TOKEN_LAPSES + 2)
    paces: list[float] = []
    for _ in range(TOKEN_LAPSES + 2):
        paces.append(heartbeat.run_once())
        assert desk.office.token_rejected
        desk.clock.advance(TOKEN_PAUSE)
    assert paces == [5.0] * (TOKEN_LAPSES - 1) + [5.0 * REJECTED_PACE] * 3
    assert caplog.text.count("the server refuses the token") == 1


def test_a_token_that_is_taken_again_restores_the_pace_and_the_claiming(
    desk: Desk, server: FakeServer, heartbeat: Heartbeat
) -> None:
    server.faults["presence"] = [refusal(401)] * TOKEN_LAPSES
    for _ in range(TOKEN_LAPSES):
        heartbeat.run_once()
        desk.clock.advance(TOKEN_PAUSE)
    assert heartbeat.run_once() == 5.0
    assert not desk.office.token_rejected
    server.faults["presence"] = [refusal(401)]
    assert heartbeat.run_once() == 5.0  # the count began anew


def test_a_presence_that_is_taken_does_not_end_the_pause_of_a_token_that_was_just_refused(
    desk: Desk, server: FakeServer, heartbeat: Heartbeat
) -> None:
    desk.office.reject_token(refusal(401))
    heartbeat.run_once()
    assert desk.office.token_rejected
    desk.clock.advance(desk.office.token_pause)
    heartbeat.run_once()
    assert not desk.office.token_rejected


@pytest.mark.parametrize("status", [None, 404, 429, 500, 503])
def test_another_failure_is_the_loops_to_repeat_and_says_nothing_of_the_token(
    desk: Desk, server: FakeServer, heartbeat: Heartbeat, status: int | None
) -> None:
    server.faults["presence"] = [refusal(status)]
    with pytest.raises(WorkerError):
        heartbeat.run_once()
    assert not desk.office.token_rejected


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


@pytest.mark.parametrize("beats", [2, SIDE_BY_SIDE, SIDE_BY_SIDE + 1])
def test_answers_that_are_late_do_not_delay_the_next_reports(
    monkeypatch: pytest.MonkeyPatch, server: FakeServer, beats: int
) -> None:
    desk = make_desk(monkeypatch, heartbeat_interval=0.5)
    answered = threading.Event()
    server.faults["presence"] = [answered.wait] * beats
    heartbeat = Heartbeat(desk.office, cast(Any, server), Ledger(INSIDE, "w"), Fleet(INSIDE))
    try:
        for _ in range(beats):
            heartbeat.run_once()
        assert len(server.asked("presence")) == min(beats, SIDE_BY_SIDE)
    finally:
        answered.set()
