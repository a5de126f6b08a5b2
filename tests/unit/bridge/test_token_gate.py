"""The token gate: pauses of a bridge while the server refuses its token."""

from __future__ import annotations

import pytest

from mr_celery.bridge.limits import LASTING, LONGEST_PAUSE
from mr_celery.bridge.token_gate import TokenGate
from support.clock import Clock
from support.ledgers import refusal


@pytest.fixture(autouse=True)
def longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backoff without jitter."""
    monkeypatch.setattr("mr_celery.backoff.random.uniform", lambda low, high: high)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def token(clock: Clock) -> TokenGate:
    return TokenGate(clock)


def refuse(token: TokenGate, clock: Clock, times: int = 1) -> list[float]:
    """Refuse the token at each trial. Returns the pauses."""
    pauses: list[float] = []
    for _ in range(times):
        token.reject(refusal(401))
        pauses.append(token.pause)
        clock.advance(token.pause)
    return pauses


def test_a_token_counts_as_accepted_until_it_is_refused(token: TokenGate) -> None:
    assert not token.rejected
    assert token.pause == 0.0


def test_each_refusal_makes_the_pause_longer(token: TokenGate, clock: Clock) -> None:
    assert refuse(token, clock, 7) == [1.0, 2.0, 4.0, 8.0, 16.0, LONGEST_PAUSE, LONGEST_PAUSE]


def test_an_accepted_request_does_not_end_the_pause(token: TokenGate, clock: Clock) -> None:
    token.reject(refusal(401))
    token.accept()
    assert token.rejected
    clock.advance(1.0)
    assert token.rejected
    token.accept()
    assert not token.rejected


def test_an_accepted_list_does_not_shorten_the_next_pause(token: TokenGate, clock: Clock) -> None:
    refuse(token, clock, 3)
    token.accept()
    assert refuse(token, clock) == [8.0]


def test_a_reset_shortens_the_next_pause(token: TokenGate, clock: Clock) -> None:
    refuse(token, clock, 3)
    token.accept()
    token.refusals = 0
    assert refuse(token, clock) == [1.0]


def test_concurrent_refusals_count_once(token: TokenGate, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(16):
        token.reject(refusal(401))
    assert token.pause == 1.0
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_single_refusals_are_warnings_and_lasting_ones_are_one_error(
    token: TokenGate, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    refuse(token, clock, LASTING + 5)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * (LASTING - 1) + ["ERROR"]
    assert "MODELREINS_TOKEN" in caplog.text
    assert "the server's words" not in caplog.text
