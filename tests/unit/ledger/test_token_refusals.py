"""Processes that share a ledger retry a refused token together, and rarely."""

from __future__ import annotations

from typing import Any

import pytest

from mr_celery.errors import LedgerUnavailable, WorkerError
from mr_celery.ledger import Ledger, TokenRefusal, TokenRefusals
from mr_celery.ledger.token_refusals import FRESH_SECONDS, seconds_to_next_try
from support.clock import Clock
from support.ledgers import INSIDE, LedgerKit, fake_kit, refusal

ID = "0123456789ab"


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> LedgerKit:
    return fake_kit(monkeypatch)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def one(kit: LedgerKit, clock: Clock) -> TokenRefusals:
    """The requests of one process."""
    return TokenRefusals(kit.ledger, clock=clock)


@pytest.fixture
def other(kit: LedgerKit, clock: Clock) -> TokenRefusals:
    """The requests of another process."""
    return TokenRefusals(Ledger(INSIDE, "w"), clock=clock)


def later(kit: LedgerKit, clock: Clock) -> None:
    """End the pause after the last refusal."""
    clock.advance(FRESH_SECONDS * 2)
    for key in kit.redis.scan_iter(kit.key("turn:token-*")):
        kit.redis.delete(key)


def allowed(process: TokenRefusals, route: str = "presence", token_id: str = ID) -> bool | None:
    """Whether a request tries the token for all processes; ``None`` if it must not be sent."""
    try:
        return process.before(token_id, route)
    except WorkerError as error:
        return None if error.unsent and error.unauthorized else False


def test_a_refusal_holds_for_all_processes(one: TokenRefusals, other: TokenRefusals, clock: Clock) -> None:
    assert allowed(one) is False
    one.refused(ID, refusal(401), trying=False)
    assert allowed(one) is None
    assert allowed(other) is None
    assert allowed(other, token_id="another") is False


def test_one_request_of_all_tries_it_again(
    one: TokenRefusals, other: TokenRefusals, kit: LedgerKit, clock: Clock
) -> None:
    one.refused(ID, refusal(401), trying=False)
    later(kit, clock)
    assert [allowed(other), allowed(one), allowed(other)] == [True, None, None]


def test_pauses_double_up_to_a_minute(one: TokenRefusals, kit: LedgerKit, clock: Clock) -> None:
    one.refused(ID, refusal(403), trying=False)
    pauses = []
    for _ in range(8):
        found = kit.ledger.refused_token(ID)
        assert found is not None
        pauses.append(seconds_to_next_try(found))
        later(kit, clock)
        assert allowed(one) is True
        one.refused(ID, refusal(403), trying=True)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_requests_that_are_refused_at_the_same_time_count_once(
    one: TokenRefusals, other: TokenRefusals, kit: LedgerKit
) -> None:
    for process in (one, other, one):
        process.refused(ID, refusal(401), trying=False)
    found = kit.ledger.refused_token(ID)
    assert found == TokenRefusal(1, 401, "POST /x -> 401")


@pytest.mark.parametrize("route", ["claim", "close", "upload", "review"])
def test_an_accepted_request_ends_it(
    one: TokenRefusals, other: TokenRefusals, kit: LedgerKit, clock: Clock, route: str
) -> None:
    one.refused(ID, refusal(401), trying=False)
    later(kit, clock)
    assert allowed(one, route) is True
    one.accepted(ID, route)
    clock.advance(FRESH_SECONDS * 2)
    assert kit.ledger.refused_token(ID) is None
    assert [allowed(one), allowed(other)] == [False, False]


def test_an_accepted_report_lets_others_try_and_the_pauses_grow_on(
    one: TokenRefusals, other: TokenRefusals, kit: LedgerKit, clock: Clock
) -> None:
    """Like a server that accepts presence but refuses claims."""
    one.refused(ID, refusal(403), trying=False)
    later(kit, clock)
    assert allowed(one) is True
    one.accepted(ID, "presence")
    clock.advance(FRESH_SECONDS * 2)
    assert allowed(other, "claim") is False
    other.refused(ID, refusal(403), trying=False)
    assert allowed(one, "claim") is None
    found = kit.ledger.refused_token(ID)
    assert found is not None
    assert (found.refusals, found.is_open) == (2, False)


def test_without_the_ledger_all_requests_are_sent(
    one: TokenRefusals, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: Any, **kwargs: Any) -> Any:
        raise LedgerUnavailable("away")

    for name in ("refused_token", "my_turn", "note_refused_token"):
        monkeypatch.setattr(Ledger, name, away)
    one.refused(ID, refusal(401), trying=False)
    clock.advance(1.0)
    assert allowed(one) is False


def test_the_error_names_the_refusal_and_the_count(one: TokenRefusals) -> None:
    one.refused(ID, refusal(401), trying=False)
    with pytest.raises(WorkerError) as unsent:
        one.before(ID, "close")
    assert unsent.value.summary == "close -> 401: not sent, since this token was refused: POST /x -> 401"
    assert (unsent.value.route, unsent.value.refusals) == ("close", 1)


def test_what_is_read_is_used_for_a_moment_only(one: TokenRefusals, other: TokenRefusals, clock: Clock) -> None:
    assert allowed(one) is False
    other.refused(ID, refusal(401), trying=False)
    assert allowed(one) is False
    clock.advance(FRESH_SECONDS)
    assert allowed(one) is None


def test_an_accepted_token_needs_no_look_for_a_moment(one: TokenRefusals, other: TokenRefusals, clock: Clock) -> None:
    assert one.sure == ("", float("-inf"))
    assert allowed(one) is False
    assert one.sure == (ID, clock() + FRESH_SECONDS)
    other.refused(ID, refusal(401), trying=False)
    assert other.sure[0] == ""
    clock.advance(FRESH_SECONDS)
    assert allowed(one) is None
    assert one.sure[0] == ""
