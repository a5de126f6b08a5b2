"""Actions on many jobs, and the statistics above the list."""

from __future__ import annotations

from mr_celery.sandbox.page import bulk, overview
from mr_celery.sandbox.store import Store


def ended(store: Store, end: str, *, seconds: float = 1.0, capability: str = "c") -> int:
    job_id = int(store.dispatch("p", "w", {"capability": capability})["id"])
    store.claim(job_id, "w")
    now = store.clock() + seconds
    store.clock = lambda: now
    store.close_job(job_id, "KeyError: 1", end)
    return job_id


def test_the_result_has_a_number_for_each_kind(store: Store) -> None:
    failed = [ended(store, "failed") for _ in range(11)]
    pending = int(store.dispatch("p", "w", {})["id"])
    assert bulk.question(store, "requeue", failed) == ("Requeue 11 jobs?", "11 failed")
    assert bulk.question(store, "abort", [pending]) == (f"Abort job {pending}?", "1 pending")
    assert bulk.apply(store, "abort", [*failed, pending]) == "1 aborted, 11 had already ended"
    assert bulk.apply(store, "requeue", [*failed, 99]) == "11 requeued, 1 had not started yet"
    assert bulk.apply(store, "requeue", failed[:2]) == "2 had not started yet"
    assert [each["event"] for each in store.events(failed[0])][-1] == "requeue", "nothing was recorded as refused"
    assert store.job(failed[0])["status"] == "pending"


def test_approving_counts_the_jobs_of_the_same_session_once(store: Store) -> None:
    store.directory.register("w", None, [{"name": "c", "risk_tier": "session"}])
    jobs = [int(store.dispatch("p", "w", {"capability": "c"})["id"]) for _ in range(3)]
    assert bulk.apply(store, "approve", jobs) == "3 approved"
    assert bulk.apply(store, "approve", jobs) == "3 did not wait for an approval"


def test_actions_that_apply_to_no_status_are_left_out() -> None:
    assert list(bulk.possible(["failed", "done"])) == ["requeue"]
    assert list(bulk.possible(["pending"])) == ["abort"]
    assert list(bulk.possible(["awaiting_approval", "running"])) == ["requeue", "abort", "approve"]


def test_pace_has_the_last_60_minutes(store: Store) -> None:
    ended(store, "failed", seconds=59.0)
    ended(store, "done", seconds=120.0)
    ended(store, "escalated", seconds=1.0)
    pace = overview.pace(store)
    assert (len(pace.ended), sum(pace.ended), sum(pace.failed)) == (60, 3, 1)
    assert pace.ended[-1] == 2
    assert pace.bars == [(57, 10, 10), (59, 20, 0)]
    store.requeue(1)
    assert overview.pace(store) == pace, "a job that runs again has ended before"
    later = store.clock() + 3600
    store.clock = lambda: later
    assert overview.pace(store).bars == []


def test_run_times_by_capability(store: Store) -> None:
    for seconds in range(1, 21):
        ended(store, "done", seconds=float(seconds), capability="slow")
    ended(store, "failed", seconds=0.5, capability="")
    slow, none = overview.run_times(store)
    assert (slow.capability, slow.number, slow.median, slow.most) == ("slow", 20, 10.0, 19.0)
    assert (none.capability, none.median, none.most) == ("", 0.5, 0.5)
