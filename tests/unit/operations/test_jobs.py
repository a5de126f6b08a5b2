"""Lists of jobs by filters, their reasons, and the history of one job."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from mr_celery.errors import MrCeleryError
from mr_celery.ledger import Event, Route
from mr_celery.operations import fail
from mr_celery.operations.jobs import STATE_AFTER, Filter, history_of, listed, seconds_in_states
from mr_celery.outcome import Outcome
from support.ledgers import DONE, LATER, LedgerKit, fake_kit

SLOW = Route("proj.slow", "slow")


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> LedgerKit:
    return fake_kit(monkeypatch)


def ids(kit: LedgerKit, *, limit: int = 50, **fields: object) -> list[int]:
    return [job.id for job in listed(kit.ledger, Filter(**fields), limit=limit)]  # type: ignore[arg-type]


def end(kit: LedgerKit, job_id: int, outcome: Outcome = DONE, **fields: object) -> None:
    """Bring a job to its end with an outcome."""
    kit.ledger.finish(kit.bring("running", job_id, **fields), outcome, deliver_seconds=LATER)  # type: ignore[arg-type]
    assert kit.close(job_id)


def age_end(kit: LedgerKit, job_id: int, ending: str, *, seconds: float) -> None:
    """Backdate the end of a job by that many seconds."""
    at = kit.record(job_id).times["ended"] - seconds
    kit.redis.hset(kit.key(f"job:{job_id}"), "ended_at", f"{at:.6f}")
    kit.redis.zadd(kit.key(f"ended:{ending}"), {str(job_id): at})


def test_jobs_in_flight_come_first_and_then_the_latest_end(kit: LedgerKit) -> None:
    end(kit, 1)
    end(kit, 2, Outcome.failed("x"))
    end(kit, 3)
    for job_id, state in ((9, "running"), (8, "running"), (7, "admitted"), (6, "finished"), (5, "aborted")):
        kit.bring(state, job_id)
    assert ids(kit) == [7, 8, 9, 6, 5, 3, 2, 1]
    assert ids(kit, limit=3) == [7, 8, 9]


def test_filters_by_state_task_and_capability(kit: LedgerKit) -> None:
    end(kit, 1, Outcome.failed("x"), capability="a.b")
    end(kit, 2, Outcome.failed("x"), capabilities=["a.b", "c.d"], route=SLOW)
    end(kit, 3, capability="c.d", route=SLOW)
    kit.bring("running", 4, capability="a.b.c")
    assert ids(kit, states=("failed",)) == [2, 1]
    assert ids(kit, states=("failed", "running")) == [4, 2, 1]
    assert ids(kit, task="proj.slow") == [3, 2]
    assert ids(kit, capability="a.b") == [2, 1]
    assert ids(kit, capability="c.d", states=("failed",), task="proj.slow") == [2]
    assert ids(kit, task="proj") == []
    with pytest.raises(MrCeleryError, match=r"unknown state 'nix': use one of admitted, .*aborted"):
        Filter(states=("nix",))


def test_filters_by_age_take_the_time_in_the_state_or_since_the_end(kit: LedgerKit) -> None:
    for job_id, seconds in ((1, 7200), (2, 1800), (3, 0)):
        end(kit, job_id)
        age_end(kit, job_id, "done", seconds=seconds)
        kit.bring("running", job_id + 10)
        kit.age(job_id + 10, "running", seconds=seconds)
    assert ids(kit, since=3600) == [12, 13, 3, 2]
    assert ids(kit, older_than=600) == [11, 12, 2, 1]
    assert ids(kit, since=3600, older_than=600) == [12, 2]
    assert ids(kit, states=("done",), since=60) == [3]


def test_jobs_that_ended_before_the_history_are_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    kit = fake_kit(monkeypatch, history=600)
    end(kit, 1)
    end(kit, 2)
    age_end(kit, 1, "done", seconds=700)
    assert ids(kit) == [2]
    assert ids(kit, since=86400) == [2]


def test_long_lists_are_read_in_pages_and_only_as_far_as_needed(
    kit: LedgerKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = kit.now()
    for job_id in range(1, 1001):
        kit.redis.hset(
            kit.key(f"job:{job_id}"),
            mapping={"state": "closed", "status": "done", "ended_at": now - job_id, "task_name": f"t{job_id % 10}"},
        )
        kit.redis.zadd(kit.key("ended:done"), {str(job_id): now - job_id})
    asked: list[int] = []
    outlines = kit.ledger.outlines

    def counting(job_ids: object) -> object:
        def each() -> object:
            for job_id in job_ids:  # type: ignore[attr-defined]
                asked.append(job_id)
                yield job_id

        return outlines(each())  # type: ignore[arg-type]

    monkeypatch.setattr(kit.ledger, "outlines", counting)
    assert ids(kit, limit=5) == [1, 2, 3, 4, 5]
    assert len(asked) == 200
    assert ids(kit, limit=1000) == list(range(1, 1001))
    assert ids(kit, limit=1000, task="t7") == list(range(7, 1001, 10))


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("closed", "closed by something else"),
        ("aborted", "aborted for a test"),
        ("finished", "ValueError; not delivered: POST /jobs/1/close -> 503"),
        ("sent", "NO_ROUTE"),
    ],
)
def test_the_reason_says_what_keeps_or_has_ended_a_job(kit: LedgerKit, state: str, reason: str) -> None:
    if state in ("closed", "finished"):
        kit.ledger.finish(kit.bring("running"), Outcome.failed("…", reason="ValueError"), deliver_seconds=0)
        if state == "closed":
            kit.close(how="superseded")
        else:
            kit.ledger.undelivered(kit.collect(), "POST /jobs/1/close -> 503", wait_seconds=LATER)
            kit.collect()
    else:
        run = kit.bring("claimed" if state == "sent" else state)
        if state == "sent":
            kit.ledger.unpublished(
                1, run.task_id, why="NO_ROUTE", tries=9, seconds=9, most_wait_seconds=9, exhausted=DONE
            )
    (job,) = listed(kit.ledger, Filter(), limit=1)
    assert job.reason == reason


def test_durations_are_from_the_claim_to_the_end(kit: LedgerKit) -> None:
    end(kit, 1)
    kit.age(1, "claimed", seconds=100)
    age_end(kit, 1, "done", seconds=40)
    (job,) = listed(kit.ledger, Filter(), limit=1)
    assert (job.duration, job.seconds) == (pytest.approx(60, abs=5), pytest.approx(40, abs=5))
    kit.bring("admitted", 2)
    (waiting,) = listed(kit.ledger, Filter(states=("admitted",)), limit=1)
    assert waiting.duration is None


def test_neither_prompts_nor_results_are_read(kit: LedgerKit) -> None:
    kit.ledger.finish(
        kit.bring("running", prompt="a secret cat"), Outcome("done", "a secret dog"), deliver_seconds=LATER
    )
    (record,) = kit.ledger.outlines([1, 2])
    assert (record.job, record.outcome) == (None, None)
    assert "secret" not in str(history_of(kit.ledger, 1))


def test_a_history_has_the_operator_and_the_reason_in_printable_form(kit: LedgerKit) -> None:
    kit.bring("sent")
    fail(kit.ledger, 1, "the customer\n\x1b[31mcancelled " + "x" * 300, announce=lambda task_id, node: None)
    history = history_of(kit.ledger, 1)
    assert history.job.reason.startswith("by ")
    assert ": the customer [31mcancelled xxx" in history.job.reason
    assert len(history.job.reason) <= 200
    assert history.events[-1].note == f"failed: {history.job.reason}"


def test_an_unknown_job_has_no_history(kit: LedgerKit) -> None:
    with pytest.raises(MrCeleryError, match="job 7 is not in the ledger of 'w'"):
        history_of(kit.ledger, 7)


def test_the_time_in_each_state_is_added_up() -> None:
    line = ["admitted 0", "claimed 1", "sent 3", "started 7", "lost 15", "sent 16", "started 18", "undelivered 20"]
    events = [Event(float(at), event, 1) for event, at in (each.split() for each in line)]
    assert seconds_in_states(events, 28.0) == {"admitted": 1, "claimed": 3, "sent": 6, "running": 18}
    ended = [*events, Event(30.0, "finished", 1), Event(31.0, "closed", 1)]
    assert seconds_in_states(ended, 99.0) == {"admitted": 1, "claimed": 3, "sent": 6, "running": 20, "finished": 1}
    assert seconds_in_states([], 5.0) == {}


OF_NO_STATE = {
    *("completed", "delivered", "extended", "forgotten", "member_failed", "mended", "pending", "refused"),
    *("undelivered", "workflow"),
}
"""The events that change no state."""


def events_of_scripts() -> set[str]:
    """The events that the ledger's scripts add to the history of a job, found in their source."""
    found: set[str] = set()
    for script in files("mr_celery.ledger").joinpath("lua").iterdir():
        source = re.sub(r"--.*", "", script.read_text())
        found.update(re.findall(r"\badd_event\('(\w+)'", source))
        found.update(re.findall(r"\bend_job\([^,]+, '(\w+)'", source))  # it passes its state on
        others = re.findall(r"\badd_event\((?!')(\w+)", source)
        assert others == (["event", "to"] if script.name == "record.lua" else []), script.name
    return found


def test_the_state_after_each_event_of_the_scripts_is_known() -> None:
    assert events_of_scripts() == STATE_AFTER.keys() | OF_NO_STATE
    assert not STATE_AFTER.keys() & OF_NO_STATE
