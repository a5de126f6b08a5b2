"""The in-flight sync compares the jobs in flight with the server's lists."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import count
from typing import Any

import pytest

from mr_celery.bridge.claiming.claimer import Claimer
from mr_celery.bridge.limits import LOOKUPS, MISSES, SILENT_SECONDS, UNCLEAR_SECONDS
from mr_celery.bridge.loops import Idle
from mr_celery.bridge.recovery.in_flight_sync import InFlightSync
from mr_celery.bridge.recovery.reaper import Reaper
from mr_celery.errors import LedgerUnavailable, WorkerError
from mr_celery.job import Job
from mr_celery.ledger.transitions import MOST_REDELIVERIES
from mr_celery.outcome import Outcome
from mr_celery.server import Listing, PartialList
from support.ledgers import DONE, BridgeHarness, LedgerKit, listed, make_harness, refusal
from support.statuses import A_FEW_NO_WORD, A_FEW_OVER, A_FEW_PENDING, A_FEW_RUNNING, short

pytestmark = pytest.mark.usefixtures("on_real_redis")

POLL = 5.0


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> BridgeHarness:
    return make_harness(monkeypatch, poll_interval=POLL, lease=30.0)


@pytest.fixture
def kit(harness: BridgeHarness) -> LedgerKit:
    return harness.kit


@pytest.fixture
def sync(harness: BridgeHarness) -> InFlightSync:
    return InFlightSync(harness.context)


def compare(harness: BridgeHarness, sync: InFlightSync, times: int = 1) -> None:
    """Advance the clock to the next comparison, and compare."""
    for _ in range(times):
        harness.clock.advance(POLL + 0.1)
        harness.kit.redis.delete(harness.kit.key("turn:sync"))
        sync.run_once()


def raised_if(broken: bool) -> AbstractContextManager[object]:
    """Expect the error of a comparison with a truncated list, which is raised after the list was used."""
    return pytest.raises(PartialList) if broken else nullcontext()


def away(*args: Any, **kwargs: Any) -> Any:
    raise LedgerUnavailable("away")


# -- when it compares ----------------------------------------------------------------------------------------


def test_with_nothing_in_flight_it_compares_once(harness: BridgeHarness, sync: InFlightSync) -> None:
    compare(harness, sync, 5)
    assert harness.server.asked("jobs") == ["running"]


def test_with_jobs_in_flight_it_compares_once_each_poll_interval(harness: BridgeHarness, sync: InFlightSync) -> None:
    harness.bring("running")
    sync.run_once()
    for _ in range(10):
        harness.clock.advance(POLL / 10 - 0.01)
        sync.run_once()
    assert harness.server.asked("jobs") == ["running"]
    compare(harness, sync)
    assert harness.server.asked("jobs") == ["running"] * 2


@pytest.mark.parametrize(("work", "seconds"), [(0.2, 10.0), (10.0, 30.0)])
def test_expensive_comparisons_are_less_frequent(
    harness: BridgeHarness, sync: InFlightSync, monkeypatch: pytest.MonkeyPatch, work: float, seconds: float
) -> None:
    spent = count(0.0, work)
    monkeypatch.setattr("mr_celery.bridge.recovery.in_flight_sync.time.thread_time", lambda: next(spent))
    harness.bring("running")
    compare(harness, sync, 2)  # after the first one it is known
    asked = len(harness.server.asked("jobs"))
    for step, more in [(seconds - 0.1, 0), (0.2, 1)]:
        harness.kit.redis.delete(harness.kit.key("turn:sync"))
        harness.clock.advance(step)
        sync.run_once()
        assert len(harness.server.asked("jobs")) == asked + more


def test_the_pending_list_is_read_if_a_job_in_flight_is_not_running(harness: BridgeHarness, sync: InFlightSync) -> None:
    harness.bring("running")
    harness.server.running.clear()
    compare(harness, sync)
    assert harness.server.asked("jobs") == ["running", "pending"]


def test_a_run_without_a_comparison_is_idle(harness: BridgeHarness, sync: InFlightSync) -> None:
    """Otherwise an idle run between two failures would reset the count of consecutive failures."""
    harness.bring("running")
    harness.server.faults["jobs"] = [refusal(503)]
    with pytest.raises(WorkerError):
        sync.run_once()
    assert isinstance(sync.run_once(), Idle)  # it is not due
    harness.clock.advance(POLL + 0.1)
    assert isinstance(sync.run_once(), Idle)  # it is another bridge's turn
    harness.clock.advance(POLL + 0.1)
    harness.kit.redis.delete(harness.kit.key("turn:sync"))
    assert not isinstance(sync.run_once(), Idle)


def test_one_of_several_bridges_compares(harness: BridgeHarness, sync: InFlightSync) -> None:
    other = InFlightSync(harness.context)
    harness.bring("running")
    sync.run_once()
    other.run_once()
    before = len(harness.server.calls)
    harness.clock.advance(POLL + 0.1)
    harness.kit.redis.delete(harness.kit.key("turn:sync"))
    sync.run_once()
    other.run_once()
    assert len(harness.server.calls) == before + 1


def test_it_compares_once_more_after_the_last_job(harness: BridgeHarness, sync: InFlightSync) -> None:
    harness.bring("running")
    compare(harness, sync)
    harness.kit.ledger.abort(1, "operator")
    del harness.server.running[1]
    compare(harness, sync, 5)
    assert harness.server.asked("jobs") == ["running"] * 2


def test_a_job_that_runs_unexpectedly_is_found_by_the_last_comparison(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync
) -> None:
    harness.bring("running")
    compare(harness, sync)
    kit.ledger.abort(1, "operator")
    harness.server.running[2] = listed(2)
    compare(harness, sync)
    assert kit.state(2) == "claimed"


@pytest.mark.parametrize("status", [None, 401, 500])
def test_a_last_comparison_without_an_answer_is_repeated(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync, status: int | None
) -> None:
    harness.server.running[1] = listed(1)
    harness.server.faults["jobs"] = [refusal(status)]
    with suppress(WorkerError):
        compare(harness, sync)
    assert kit.state() == "unknown"
    harness.clock.advance(harness.context.token.pause)
    harness.context.token.accept()
    compare(harness, sync)
    assert kit.state() == "claimed"


@pytest.mark.parametrize("step", ["survey", "mend", "adopt"])
def test_a_last_comparison_without_the_ledger_is_repeated(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    harness.server.running[1] = listed(1)
    with monkeypatch.context() as patch:
        patch.setattr(kit.ledger, step, away)
        with pytest.raises(LedgerUnavailable):
            compare(harness, sync)
    compare(harness, sync)
    assert kit.state() == "claimed"


def test_a_last_comparison_with_a_truncated_list_is_repeated(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync
) -> None:
    harness.server.torn.add("running")
    compare(harness, sync)
    harness.server.torn.clear()
    harness.server.running[1] = listed(1)
    compare(harness, sync)
    assert kit.state() == "claimed"


def test_it_compares_while_an_unclear_claim_may_appear(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync
) -> None:
    compare(harness, sync)
    harness.context.claims_unclear_until = harness.clock() + UNCLEAR_SECONDS
    compare(harness, sync, 3)
    harness.server.running[1] = listed(1)  # the server finally processes the claim
    compare(harness, sync)
    assert kit.state() == "claimed"


def test_it_stops_comparing_once_no_unclear_claim_can_appear(harness: BridgeHarness, sync: InFlightSync) -> None:
    harness.context.claims_unclear_until = harness.clock() + UNCLEAR_SECONDS
    harness.clock.advance(UNCLEAR_SECONDS)
    compare(harness, sync, 5)
    assert harness.server.asked("jobs") == ["running"]


def test_an_emptied_ledger_is_refilled_from_the_servers_list(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync
) -> None:
    harness.bring("running")
    compare(harness, sync)
    kit.redis.flushall()
    harness.announce()
    compare(harness, sync)
    assert kit.state() == "claimed"


# -- claims to settle --------------------------------------------------------------------------------------


def test_an_unclear_claim_that_the_server_lists_as_running_is_published(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync
) -> None:
    harness.bring("admitted", priority="high")
    harness.server.running[1] = listed(1)
    kit.make_due("admitted")
    sync.run_once()
    assert kit.state() == "sent"
    assert harness.publisher.sent == [(1, kit.record().task_id)]
    assert harness.publisher.details == [("high", 0)]


@pytest.mark.parametrize("pending", [True, False])
def test_an_unclear_claim_that_is_not_running_is_dropped(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync, pending: bool
) -> None:
    harness.bring("admitted")
    if pending:
        harness.server.dispatch(1)
    kit.make_due("admitted")
    sync.run_once()
    assert kit.state() == "unknown"
    assert kit.load() == 0
    assert harness.publisher.sent == []


def test_a_claim_in_progress_is_not_settled(harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync) -> None:
    harness.bring("admitted")
    compare(harness, sync)
    assert kit.state() == "admitted"


NOT_CONCLUSIVE = ["torn", "cut"]


@pytest.mark.parametrize("how", NOT_CONCLUSIVE)
@pytest.mark.parametrize(
    ("listed_as", "state"), [("running", "sent"), ("pending", "unknown"), ("ended", "admitted"), ("", "admitted")]
)
def test_a_truncated_list_settles_the_claims_that_it_contains(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync, how: str, listed_as: str, state: str
) -> None:
    harness.bring("admitted")
    getattr(harness.server, how).update({"running", "pending"})
    if listed_as:
        getattr(harness.server, listed_as)[1] = listed(1)
    kit.make_due("admitted")
    with raised_if(how == "cut"):
        sync.run_once()
    assert kit.state() == state
    assert not kit.is_due("admitted")


@pytest.mark.parametrize("word", A_FEW_OVER, ids=short)
@pytest.mark.parametrize("how", [*NOT_CONCLUSIVE, ""])
def test_a_claim_of_a_job_with_any_final_status_is_dropped(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync, how: str, word: str
) -> None:
    harness.bring("admitted")
    harness.server.running[1] = listed(1, status=word)
    if how:
        getattr(harness.server, how).add("running")
    kit.make_due("admitted")
    with raised_if(how == "cut"):
        sync.run_once()
    assert kit.state() == "unknown"


def test_an_unclear_claim_missing_from_truncated_lists_is_finally_dropped_and_adopted_later(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync
) -> None:
    harness.bring("admitted")
    harness.server.torn.add("running")
    kit.make_due("admitted")
    compare(harness, sync)
    assert kit.state() == "admitted"
    kit.age(1, "admitted", seconds=UNCLEAR_SECONDS)
    kit.make_due("admitted")
    compare(harness, sync)
    assert (kit.state(), kit.load()) == ("unknown", 0)
    harness.server.running[1] = listed(1)
    compare(harness, sync)
    assert kit.state() == "claimed"


@pytest.mark.parametrize("long", [False, True])
def test_an_unclear_claim_of_a_job_with_an_unclear_status_waits(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync, monkeypatch: pytest.MonkeyPatch, long: bool
) -> None:
    harness.bring("admitted")
    jobs = harness.server.jobs
    unclear = Listing(statuses={1: ""})
    monkeypatch.setattr(harness.server, "jobs", lambda of, **kept: unclear if of == "running" else jobs(of, **kept))
    if long:
        kit.age(1, "admitted", seconds=UNCLEAR_SECONDS)
    kit.make_due("admitted")
    sync.run_once()
    assert kit.state() == ("unknown" if long else "admitted")


@pytest.mark.parametrize("status", [None, 200, 429, 500, 503])
def test_without_a_list_nothing_is_settled(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync, status: int | None
) -> None:
    harness.bring("admitted")
    kit.make_due("admitted")
    harness.server.faults["jobs"] = [refusal(status)]
    with pytest.raises(WorkerError):
        sync.run_once()
    assert kit.state() == "admitted"
    assert not kit.is_due("admitted")  # held for a while, then requested again
    harness.server.running[1] = listed(1)
    kit.make_due("admitted")
    sync.run_once()
    assert kit.state() == "sent"


def test_a_settled_claim_whose_publish_fails_is_left_to_the_reaper(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync
) -> None:
    harness.bring("admitted")
    harness.server.running[1] = listed(1)
    harness.publisher.fails = [OSError("the broker is unreachable")]
    kit.make_due("admitted")
    sync.run_once()
    assert kit.state() == "claimed"
    kit.make_due("claimed")
    Reaper(harness.context).run_once()
    assert harness.publisher.jobs == [1]


# -- adoption ----------------------------------------------------------------------------------------------


def test_a_job_that_the_ledger_has_lost_is_adopted_and_sent_after_a_lease(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync
) -> None:
    harness.server.running[1] = listed(1, priority="low")
    now = kit.now()
    sync.run_once()
    assert kit.state() == "claimed"
    score = kit.score("claimed")
    assert score is not None
    assert 29 < score - now < 32
    assert harness.publisher.sent == []
    kit.make_due("claimed")
    Reaper(harness.context).run_once()
    assert harness.publisher.jobs == [1]
    assert harness.publisher.details == [("low", 0)]


@pytest.mark.parametrize(("assigned_to", "state"), [("w", "claimed"), ("", "claimed"), ("somebody-else", "unknown")])
def test_only_jobs_of_this_worker_name_are_adopted(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync, assigned_to: str, state: str
) -> None:
    harness.server.running[1] = listed(1, assigned_to=assigned_to)
    sync.run_once()
    assert kit.state() == state


def test_a_job_that_ended_during_the_request_is_not_adopted(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync
) -> None:
    run = harness.bring("finished")
    asked: list[str] = []

    def end_in_between() -> None:
        asked.append(run.task_id)
        kit.close()

    harness.server.faults["jobs"] = [end_in_between]
    sync.run_once()
    assert asked
    assert kit.state() == "closed"


def test_an_adopted_job_that_no_handler_takes_fails_with_the_reason(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync
) -> None:
    harness.server.running[1] = listed(1, capability="unheard.of")
    sync.run_once()
    outcome = kit.outcome()
    assert outcome.status == "failed"
    assert "no handler takes job 1" in outcome.text
    assert kit.is_due("finished")


def test_a_job_for_which_match_raises_is_adopted_once_it_no_longer_does(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    raises = [OSError("not for the log")]

    def match(job: Job) -> bool:
        if raises:
            raise raises[0]
        return True

    harness = make_harness(monkeypatch, poll_interval=POLL, match=match)
    sync = InFlightSync(harness.context)
    harness.server.running.update({1: listed(1), 2: listed(2, capability="slow")})
    compare(harness, sync, 30)
    assert harness.kit.state(1) == "unknown"
    assert harness.kit.state(2) == "claimed"
    warnings = [record.message for record in caplog.records if "match= raised" in record.message]
    assert len(warnings) == 2  # after 5 s, and a minute later
    assert all("1 job waits for tiny.upper: match= raised OSError, in match (" in each for each in warnings)
    assert "not for the log" not in caplog.text
    raises.clear()
    compare(harness, sync)
    assert harness.kit.state(1) == "claimed"


def test_an_entry_that_is_not_a_job_does_not_prevent_adoptions(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync
) -> None:
    harness.server.running[-1] = listed(-1)
    harness.server.running[1] = listed(1)
    sync.run_once()
    assert kit.state() == "claimed"


def test_a_malformed_entry_is_not_adopted_until_it_is_valid(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync
) -> None:
    harness.server.running[1] = listed(1, prompt=None)
    for _ in range(3):
        harness.clock.advance(3600.0)
        compare(harness, sync)
    assert kit.state() == "unknown"
    harness.server.running[1] = listed(1)
    compare(harness, sync)
    assert kit.state() == "claimed"


@pytest.mark.parametrize("how", NOT_CONCLUSIVE)
def test_jobs_of_a_truncated_list_are_adopted(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync, how: str
) -> None:
    harness.server.running[1] = listed(1)
    getattr(harness.server, how).add("running")
    with raised_if(how == "cut"):
        compare(harness, sync)
    assert kit.state() == "claimed"


@pytest.mark.parametrize("word", A_FEW_OVER, ids=short)
def test_a_job_whose_status_is_final_is_not_adopted(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync, word: str
) -> None:
    harness.server.running[1] = listed(1, status=word)
    compare(harness, sync)
    assert kit.state() == "unknown"


def closed_but_listed(harness: BridgeHarness, *, outcome: Outcome = DONE) -> None:
    """A server that accepts the close of job 1 and still lists it as running."""
    run = harness.bring("running")
    harness.kit.ledger.finish(run, outcome, deliver_seconds=30)
    harness.kit.close()


def test_a_closed_job_that_the_server_lists_as_running_is_closed_again(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync, caplog: pytest.LogCaptureFixture
) -> None:
    closed_but_listed(harness)
    sync.run_once()
    assert kit.state() == "finished"
    assert kit.is_due("finished")
    assert kit.record().outcome == DONE
    assert harness.publisher.sent == []
    assert "job=1 closed once more" in caplog.text


def test_a_job_that_the_server_never_closes_is_compared_until_it_is_reopened(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync
) -> None:
    closed_but_listed(harness)
    for _ in range(MOST_REDELIVERIES):
        compare(harness, sync)
        assert kit.close()
    compare(harness, sync, 3)
    assert kit.state() == "closed"
    kit.outgrow_kept_outcome()
    compare(harness, sync)
    assert kit.state() == "claimed"


# -- aborted -----------------------------------------------------------------------------------------------


def two_jobs(harness: BridgeHarness, sync: InFlightSync, state: str = "running") -> str:
    """Two listed jobs in flight, of which the first disappears. Returns its task id."""
    run = harness.bring(state, 1)
    harness.bring("running", 2)
    compare(harness, sync)
    del harness.server.running[1]
    return run.task_id


@pytest.mark.parametrize(("state", "told"), [("claimed", ""), ("sent", ""), ("running", "celery@test")])
def test_a_job_that_is_listed_nowhere_twice_in_a_row_was_aborted(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync, state: str, told: str
) -> None:
    task_id = two_jobs(harness, sync, state)
    compare(harness, sync, MISSES - 1)
    assert kit.state(1) == state
    assert harness.publisher.announced == []
    compare(harness, sync)
    assert kit.state(1) == "aborted"
    assert harness.publisher.announced == [(task_id, told)]
    assert kit.state(2) == "running"


def test_a_job_that_is_listed_again_was_not_aborted(harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync) -> None:
    two_jobs(harness, sync)
    for _ in range(3):
        compare(harness, sync)
        harness.server.running[1] = listed(1)
        compare(harness, sync)
        del harness.server.running[1]
    assert kit.state(1) == "running"


def test_a_job_that_is_pending_again_was_not_aborted(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync
) -> None:
    two_jobs(harness, sync)
    harness.server.dispatch(1)
    compare(harness, sync, 6)
    assert kit.state(1) == "running"
    assert harness.publisher.announced == []


def test_a_job_that_may_not_be_claimed_yet_is_not_missed(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync
) -> None:
    harness.bring("running", 2)
    harness.bring("admitted", 1)
    compare(harness, sync, MISSES + 1)
    assert kit.state(1) == "admitted"
    assert harness.server.asked("jobs") == ["running"] * (MISSES + 1)


def test_empty_lists_count_after_a_while(harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync) -> None:
    two_jobs(harness, sync)
    harness.server.running.clear()
    compare(harness, sync, MISSES + 3)
    assert [kit.state(1), kit.state(2)] == ["running", "running"]
    for job_id in (1, 2):
        kit.age_miss(job_id, seconds=SILENT_SECONDS)
    compare(harness, sync)
    assert [kit.state(1), kit.state(2)] == ["aborted", "aborted"]
    assert len(harness.publisher.announced) == 2


def test_a_job_that_was_never_listed_does_not_count_as_aborted(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync
) -> None:
    harness.bring("running", 1)
    harness.bring("running", 2)
    del harness.server.running[1]
    compare(harness, sync, MISSES + 3)
    kit.age_miss(1, seconds=SILENT_SECONDS * 10)
    compare(harness, sync)
    assert [kit.state(1), kit.state(2)] == ["running", "running"]


@pytest.mark.parametrize("told_by", ["list", "job"])
def test_a_reported_abort_counts_even_if_the_job_was_never_listed(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync, told_by: str
) -> None:
    run = harness.bring("running")
    harness.server.abort(1)
    if told_by == "job":
        harness.server.ended.clear()
        harness.server.known[1] = {"id": 1, "status": "failed"}
    compare(harness, sync, MISSES - 1)
    assert kit.state() == "running"
    compare(harness, sync)
    assert kit.state() == "aborted"
    assert harness.publisher.announced == [(run.task_id, "celery@test")]


def test_bridges_share_the_count_of_misses(harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync) -> None:
    harness.bring("running")
    harness.server.abort(1)
    other = InFlightSync(harness.context)
    compare(harness, sync, MISSES - 1)
    compare(harness, other)
    assert kit.state() == "aborted"


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("status", [None, 200, 404, 500, 503])
def test_a_failed_or_invalid_list_aborts_nothing(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync, which: int, status: int | None
) -> None:
    two_jobs(harness, sync)
    for _ in range(6):
        harness.server.faults["jobs"] = [None] * which + [refusal(status)]
        with pytest.raises(WorkerError):
            compare(harness, sync)
    assert kit.state(1) == "running"
    assert harness.publisher.announced == []


@pytest.mark.parametrize("which", ["running", "pending"])
@pytest.mark.parametrize("how", NOT_CONCLUSIVE)
def test_a_truncated_list_aborts_nothing(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync, how: str, which: str
) -> None:
    two_jobs(harness, sync)
    getattr(harness.server, how).add(which)
    for _ in range(MISSES + 3):
        harness.clock.advance(3600.0)
        with raised_if(how == "cut"):
            compare(harness, sync)
    assert kit.state(1) == "running"
    getattr(harness.server, how).clear()
    compare(harness, sync, MISSES - 1)
    assert kit.state(1) == "running"
    compare(harness, sync)
    assert kit.state(1) == "aborted"


@pytest.mark.parametrize("how", NOT_CONCLUSIVE)
@pytest.mark.parametrize("told_by", ["list", "job"])
def test_a_reported_abort_counts_with_a_truncated_list(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync, how: str, told_by: str
) -> None:
    two_jobs(harness, sync)
    if told_by == "list":
        harness.server.ended[1] = "failed"
    else:
        harness.server.known[1] = {"id": 1, "status": "cancelled"}
    getattr(harness.server, how).add("running")
    with raised_if(how == "cut"):
        compare(harness, sync)
    assert [kit.state(1), kit.state(2)] == ["aborted", "running"]


def test_absence_from_a_truncated_list_is_not_a_miss(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync
) -> None:
    two_jobs(harness, sync)
    compare(harness, sync, MISSES - 1)
    harness.server.torn.add("running")
    compare(harness, sync, 5)
    assert kit.state(1) == "running"


def test_a_malformed_entry_with_an_id_counts_as_listed(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync
) -> None:
    two_jobs(harness, sync)
    harness.server.running[1] = listed(1, prompt=None, status=7)
    compare(harness, sync, MISSES + 3)
    assert kit.state(1) == "running"
    assert harness.server.asked("job") == []


@pytest.mark.parametrize("of", ["running", "pending"])
@pytest.mark.parametrize("word", A_FEW_OVER, ids=short)
def test_a_job_listed_with_another_status_is_over(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync, of: str, word: str
) -> None:
    two_jobs(harness, sync)
    getattr(harness.server, of)[1] = listed(1, status=word)
    compare(harness, sync, MISSES)
    assert [kit.state(1), kit.state(2)] == ["aborted", "running"]
    assert harness.server.asked("job") == []


@pytest.mark.parametrize("of", ["running", "pending"])
@pytest.mark.parametrize("word", [*A_FEW_RUNNING, *A_FEW_PENDING], ids=short)
def test_a_job_that_is_running_or_pending_in_any_list_is_not_over(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync, of: str, word: str
) -> None:
    two_jobs(harness, sync)
    getattr(harness.server, of)[1] = listed(1, status=word)
    compare(harness, sync, MISSES + 3)
    assert kit.state(1) == "running"


def test_an_unclear_claim_missing_from_a_complete_running_list_is_dropped(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync
) -> None:
    harness.bring("running", 2)
    harness.server.running.clear()  # an unlisted job, so that the inbox is requested
    harness.bring("admitted", 1)
    kit.make_due("admitted")
    harness.server.torn.add("pending")
    compare(harness, sync)
    assert kit.state(1) == "unknown"


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_token_aborts_nothing(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync, status: int
) -> None:
    two_jobs(harness, sync)
    harness.server.faults["jobs"] = [refusal(status)]
    compare(harness, sync)
    assert harness.context.token.rejected
    calls = len(harness.server.calls)
    compare(harness, sync, 6)
    assert len(harness.server.calls) == calls
    assert kit.state(1) == "running"


@pytest.mark.parametrize(
    ("known", "state"),
    [
        (None, "aborted"),
        *(({"id": 1, "status": word}, "aborted") for word in ("failed", "escalated", *A_FEW_OVER)),
        *(({"id": 1, "status": word}, "running") for word in (*A_FEW_RUNNING, *A_FEW_PENDING)),
        *(({"id": 1, "status": value}, "aborted") for value in A_FEW_NO_WORD),  # so the lists decide
        ({}, "aborted"),
    ],
    ids=short,
)
def test_the_status_of_a_single_job_decides_if_the_server_reports_it(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync, known: dict[str, Any] | None, state: str
) -> None:
    two_jobs(harness, sync)
    if known is not None:
        harness.server.known[1] = known
    compare(harness, sync, MISSES + 3)
    assert kit.state(1) == state


def test_an_outcome_that_may_just_have_been_closed_is_not_aborted(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync
) -> None:
    two_jobs(harness, sync, "finished")
    compare(harness, sync, 6)
    assert kit.state(1) == "finished"


def test_an_undelivered_outcome_is_not_delivered_after_an_abort(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync
) -> None:
    run = harness.bring("running", 1)
    kit.ledger.fail(1, run.task_id, Outcome.failed("time limit"))
    harness.bring("running", 2)
    compare(harness, sync)
    del harness.server.running[1]
    compare(harness, sync, MISSES)
    assert kit.state(1) == "aborted"


def test_an_abort_counts_although_no_worker_can_be_notified(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync, caplog: pytest.LogCaptureFixture
) -> None:
    two_jobs(harness, sync)
    harness.publisher.deaf = True
    compare(harness, sync, MISSES)
    assert kit.state(1) == "aborted"
    assert "abort not announced: OSError\n" in caplog.text


def some_vanished(harness: BridgeHarness, sync: InFlightSync, count: int) -> list[int]:
    """Listed jobs in flight, of which ``count`` disappear. Returns these."""
    for job_id in range(1, count + 2):
        harness.bring("running", job_id)
    compare(harness, sync)
    for job_id in range(1, count + 1):
        del harness.server.running[job_id]
    return list(range(1, count + 1))


def test_a_job_with_an_unknown_status_does_not_prevent_other_aborts(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync, monkeypatch: pytest.MonkeyPatch
) -> None:
    some_vanished(harness, sync, 3)
    tell = harness.server.job

    def tell_of_others(job_id: int) -> dict[str, Any] | None:
        if job_id == 2:
            raise refusal(500)
        return tell(job_id)

    monkeypatch.setattr(harness.server, "job", tell_of_others)
    compare(harness, sync, MISSES)
    assert [kit.state(job_id) for job_id in (1, 2, 3, 4)] == ["aborted", "running", "aborted", "running"]


def test_many_aborts_at_once_are_read_from_one_list(harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync) -> None:
    vanished = some_vanished(harness, sync, LOOKUPS * 3)
    harness.server.abort(*vanished)
    compare(harness, sync, MISSES)
    assert [kit.state(job_id) for job_id in vanished] == ["aborted"] * len(vanished)
    assert harness.server.asked("job") == []
    assert harness.server.asked("jobs")[-3:] == ["running", "pending", "failed"]


def test_many_missing_jobs_are_looked_up_a_few_at_a_time(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync
) -> None:
    vanished = some_vanished(harness, sync, LOOKUPS * 2)
    left: list[int] = []
    for _ in range(MISSES + 2):
        before = len(harness.server.asked("job"))
        compare(harness, sync)
        assert len(harness.server.asked("job")) - before <= LOOKUPS
        left.append(sum(kit.state(job_id) == "running" for job_id in vanished))
    assert left == [LOOKUPS * 2] * (MISSES - 1) + [LOOKUPS, 0, 0]


@pytest.mark.parametrize(("status", "aborted"), [(None, False), (503, False), (400, True), (404, True)])
def test_without_a_list_of_failed_jobs_each_job_is_looked_up(
    harness: BridgeHarness,
    kit: LedgerKit,
    sync: InFlightSync,
    status: int | None,
    aborted: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vanished = some_vanished(harness, sync, LOOKUPS + 1)
    give = harness.server.jobs

    def give_lists(of: str, **kept: Any) -> Any:
        if of in ("failed", "done", "escalated"):
            raise refusal(status)
        return give(of, **kept)

    monkeypatch.setattr(harness.server, "jobs", give_lists)
    compare(harness, sync, MISSES + 1)
    assert [kit.state(job_id) == "aborted" for job_id in vanished] == [aborted] * len(vanished)


# -- the capacity --------------------------------------------------------------------------------------------


def waits(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.message for each in caplog.records if getattr(each, "event", "") == "adoption_waits"]


def test_no_more_jobs_are_adopted_than_the_fleet_has_slots(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync, caplog: pytest.LogCaptureFixture
) -> None:
    """The others wait on the server until slots become free. That is logged once."""
    caplog.set_level("INFO")
    harness.server.running.update({job_id: listed(job_id) for job_id in range(1, 101)})
    compare(harness, sync, 3)
    assert kit.ledger.survey().in_flight == 4  # twice the worker's concurrency
    assert waits(caplog) == [
        "96 jobs running on the server but unknown to the ledger: to be adopted as slots become free"
    ]
    assert kit.redis.dbsize() < 40
    ended: set[int] = set()
    while len(ended) < 100:
        (batch,) = [{job_id for job_id in range(1, 101) if kit.state(job_id) == "claimed"}]
        assert 0 < len(batch) <= 4
        for job_id in batch:
            kit.ledger.abort(job_id, "ended here")
            del harness.server.running[job_id]
        ended |= batch
        harness.clock.advance(60)  # comparisons that take long, as on a busy machine, are further apart
        compare(harness, sync)
    assert waits(caplog)[1:] == ["no job waits to be adopted any more"]
    assert kit.ledger.survey().in_flight == 0


def test_a_job_that_waits_to_be_adopted_is_not_aborted(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync
) -> None:
    harness.server.running.update({job_id: listed(job_id) for job_id in range(1, 10)})
    compare(harness, sync, 20)
    assert [kit.state(job_id) for job_id in range(1, 10)] == ["claimed"] * 4 + ["unknown"] * 5
    assert harness.publisher.announced == []


def test_without_a_worker_jobs_wait_to_be_adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = make_harness(monkeypatch, poll_interval=POLL, worker_online=False)
    sync = InFlightSync(harness.context)
    harness.server.running[1] = listed(1)
    compare(harness, sync)
    assert harness.kit.state() == "unknown"
    harness.announce()
    compare(harness, sync)
    assert harness.kit.state() == "claimed"


def test_a_job_whose_outcome_is_here_needs_no_slot(harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync) -> None:
    run = harness.bring("running")
    kit.redis.flushdb()
    harness.announce()
    harness.server.running.update({job_id: listed(job_id, priority="high") for job_id in range(2, 10)})
    compare(harness, sync)
    assert kit.ledger.finish(run, DONE, deliver_seconds=30) == "kept"
    compare(harness, sync)
    assert kit.state(1) == "finished"


def test_claims_leave_a_slot_free_for_jobs_that_wait_to_be_adopted(harness: BridgeHarness, sync: InFlightSync) -> None:
    harness.server.running.update({job_id: listed(job_id) for job_id in range(1, 10)})
    compare(harness, sync)
    for job_id in range(1, 5):
        harness.kit.ledger.abort(job_id, "ended here")
        del harness.server.running[job_id]
    harness.server.pending.update({job_id: listed(job_id) for job_id in range(20, 30)})
    claimer = Claimer(harness.context)
    claimer.run_once()
    claimer.close(5.0)
    assert harness.kit.ledger.survey().in_flight == 3
    compare(harness, sync)
    assert harness.kit.state(5) == "claimed"
    assert harness.kit.ledger.survey().in_flight == 4


def test_jobs_that_no_handler_takes_are_adopted_a_few_at_a_time(
    harness: BridgeHarness, kit: LedgerKit, sync: InFlightSync
) -> None:
    harness.server.running.update({job_id: listed(job_id, capability="unheard.of") for job_id in range(1, 301)})
    compare(harness, sync)
    assert kit.ledger.survey().states["finished"] == 8
    compare(harness, sync, 3)
    assert kit.ledger.survey().states["finished"] == 8
    for job_id in range(1, 9):
        kit.close(job_id)
        del harness.server.running[job_id]
    compare(harness, sync, 3)
    assert kit.ledger.survey().states["finished"] == 8
