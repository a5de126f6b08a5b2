"""What the loops of a bridge share: the token's state, claims without a clear answer, the way to the broker."""

from __future__ import annotations

import pytest

from mr_celery.bridge.office import TOKEN_LAPSES, TOKEN_PAUSE, UNCLEAR_SECONDS, Office
from mr_celery.bridge.sender import NotPublished
from mr_celery.ledger import Route
from support.ledgers import Clock, Desk, make_desk, refusal


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Chance always chooses the longest wait."""
    monkeypatch.setattr("mr_celery.backoff.random.uniform", lambda low, high: high)
    return make_desk(monkeypatch)


@pytest.fixture
def office(desk: Desk) -> Office:
    return desk.office


@pytest.fixture
def clock(desk: Desk) -> Clock:
    return desk.clock


def refuse(office: Office, clock: Clock, times: int = 1) -> list[float]:
    """The token is refused so many times, each time that it is tried. Returns the pauses."""
    pauses: list[float] = []
    for _ in range(times):
        office.reject_token(refusal(401))
        pauses.append(office.token_pause)
        clock.advance(office.token_pause)
    return pauses


# -- the token -----------------------------------------------------------------------------------------------


def test_a_token_is_good_until_it_is_refused(office: Office) -> None:
    assert not office.token_rejected
    assert office.token_pause == 0.0


def test_a_refused_token_rests_longer_with_each_refusal(office: Office, clock: Clock) -> None:
    assert refuse(office, clock, 7) == [1.0, 2.0, 4.0, 8.0, 16.0, TOKEN_PAUSE, TOKEN_PAUSE]


def test_a_token_that_is_taken_again_before_its_pause_is_over_still_rests(office: Office, clock: Clock) -> None:
    office.reject_token(refusal(401))
    office.accept_token()
    assert office.token_rejected
    clock.advance(1.0)
    assert office.token_rejected
    office.accept_token()
    assert not office.token_rejected


def test_lists_that_are_given_do_not_make_the_next_pause_short(office: Office, clock: Clock) -> None:
    refuse(office, clock, 3)
    office.accept_token()
    assert refuse(office, clock) == [8.0]


def test_what_the_server_did_for_a_token_makes_the_next_pause_short(office: Office, clock: Clock) -> None:
    refuse(office, clock, 3)
    office.accept_token()
    office.token_works()
    assert refuse(office, clock) == [1.0]


def test_requests_that_are_refused_together_count_as_one(
    office: Office, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(16):
        office.reject_token(refusal(401))
    assert office.token_pause == 1.0
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_lapse_is_a_warning_and_what_lasts_is_an_error_once(
    office: Office, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    refuse(office, clock, TOKEN_LAPSES + 5)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * (TOKEN_LAPSES - 1) + ["ERROR"]
    assert "MODELREINS_TOKEN" in caplog.text
    assert "the server's words" not in caplog.text


# -- claims without a clear answer -----------------------------------------------------------------------------


def test_a_claim_without_a_clear_answer_may_come_to_light_for_a_while(office: Office, clock: Clock) -> None:
    assert not office.claims_unclear
    office.claim_unclear()
    clock.advance(UNCLEAR_SECONDS - 0.1)
    assert office.claims_unclear
    office.claim_unclear()
    clock.advance(UNCLEAR_SECONDS - 0.1)
    assert office.claims_unclear
    clock.advance(0.1)
    assert not office.claims_unclear


# -- publishing ------------------------------------------------------------------------------------------------


def test_what_the_broker_takes_is_sent(desk: Desk, office: Office) -> None:
    run = desk.bring("claimed")
    office.publish(1, office.routes["tiny.upper"], run.task_id, priority="high", retries=2)
    assert desk.sender.sent == [(1, run.task_id)]
    assert desk.sender.details == [("high", 2)]
    assert desk.books.state() == "sent"


def test_what_the_broker_does_not_take_stays_claimed_and_says_so(
    desk: Desk, office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    run = desk.bring("claimed")
    desk.sender.fails = [OSError("the broker is away")]
    with pytest.raises(NotPublished):
        office.publish(1, office.routes["tiny.upper"], run.task_id, priority="normal")
    assert desk.books.state() == "claimed"
    assert f"job=1 attempt=1 task={run.task_id} not published" in caplog.text


@pytest.mark.parametrize(
    ("task", "why"), [("", "no handler of this worker"), ("tiny.gone", "tiny.gone is not declared")]
)
def test_what_has_no_handler_here_fails(desk: Desk, office: Office, task: str, why: str) -> None:
    run = desk.bring("claimed")
    assert not office.send(1, Route(task, "celery"), run.task_id, priority="normal")
    outcome = desk.books.record().outcome
    assert outcome is not None
    assert outcome.status == "failed"
    assert why in outcome.text
    assert desk.sender.sent == []
