"""The table of wake-ups, and the listener that follows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mr_celery.bridge.notification_listener import RETRY_SECONDS, NotificationListener, Woken
from mr_celery.bridge.wake_ups import WAKE_UPS, loops_of_due_jobs, of_notification
from mr_celery.ledger import IN_FLIGHT, NotificationsRefused
from support.ledgers import BridgeHarness, make_harness

LOOPS = ("claim", "courier", "reaper", "sync")


class RecordingLoop:
    """A loop that records how it is woken."""

    def __init__(self) -> None:
        self.woken: list[str] = []

    def wake(self) -> None:
        self.woken.append("wake")

    def call(self) -> None:
        self.woken.append("call")


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> BridgeHarness:
    return make_harness(monkeypatch)


def notify(
    harness: BridgeHarness, monkeypatch: pytest.MonkeyPatch, *changes: str, slot_wanted: bool
) -> dict[str, list[str]]:
    """Let a listener receive notifications. Returns how each loop was woken."""

    def listen(timeout: float) -> Iterator[list[tuple[str, str]]]:
        yield [("w", change) for change in changes]

    loops: dict[Any, Any] = {name: RecordingLoop() for name in LOOPS}
    context = harness.context
    monkeypatch.setattr(context.ledger, "listen", listen)
    woken = {"w": Woken(loops, wants_slot=lambda: slot_wanted)}
    assert NotificationListener([context.ledger], woken, stopping=context.stopping.is_set).run_once() == 0.0
    return {name: loop.woken for name, loop in loops.items() if loop.woken}


def test_the_due_jobs_of_each_state_in_flight_have_one_loop() -> None:
    assert sorted(each.change for each in WAKE_UPS if each.signal == "due") == sorted(IN_FLIGHT)
    assert loops_of_due_jobs({"claim": "C", "courier": "D", "reaper": "R", "sync": "S"}) == {
        "admitted": "S",
        "claimed": "R",
        "sent": "R",
        "running": "R",
        "deferred": "R",
        "finished": "D",
    }


@pytest.mark.parametrize(
    ("change", "slot_wanted", "expected"),
    [
        ("claimed", False, {"reaper": ["wake"]}),
        ("deliver", False, {"courier": ["wake"]}),
        ("deliver", True, {"courier": ["wake"], "claim": ["call"]}),
        ("resumed", False, {"claim": ["wake"]}),
        ("resumed", True, {"claim": ["wake"]}),
        ("finished", False, {}),
        ("finished", True, {"claim": ["call"]}),
        ("dropped", True, {"claim": ["call"]}),
        ("aborted", True, {"claim": ["call"]}),
        ("aborted", False, {}),
        ("paused", True, {}),
        ("", True, {}),
    ],
)
def test_a_notification_wakes_the_loops_of_its_rows(
    harness: BridgeHarness,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    slot_wanted: bool,
    expected: dict[str, list[str]],
) -> None:
    assert notify(harness, monkeypatch, change, slot_wanted=slot_wanted) == expected


def test_a_stopping_bridge_wakes_no_loop(harness: BridgeHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    harness.context.stopping.set()
    assert notify(harness, monkeypatch, "claimed", slot_wanted=True) == {}


def test_no_row_is_given_twice() -> None:
    assert len({(each.signal, each.change, each.loop) for each in WAKE_UPS}) == len(WAKE_UPS)


def test_a_change_without_a_row_wakes_no_loop() -> None:
    assert list(of_notification("unheard of", slot_wanted=True)) == []


def test_a_listener_without_permission_says_so_once_and_tries_again_later(
    harness: BridgeHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[bool] = [False, False, True, False]

    def listen(timeout: float) -> Iterator[list[tuple[str, str]]]:
        if not answers.pop(0):
            raise NotificationsRefused("its Redis user has no permission for the channel c")
        yield []

    monkeypatch.setattr(harness.context.ledger, "listen", listen)
    listener = NotificationListener([harness.context.ledger], {})
    with caplog.at_level("INFO"):
        assert [listener.run_once() for _ in range(4)] == [RETRY_SECONDS, RETRY_SECONDS, 0.0, RETRY_SECONDS]
    refused = "no notifications from the ledger: its Redis user has no permission for the channel c. The bridge polls"
    logged = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [(level, text.startswith(refused)) for level, text in logged] == [
        ("WARNING", True),
        ("INFO", False),
        ("WARNING", True),
    ]
