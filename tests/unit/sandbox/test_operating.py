"""Operators' actions on workers and jobs: pause, killswitch, jobs without a worker, changes; and lost workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mr_celery.sandbox.killswitch import LEVELS, KillswitchError
from mr_celery.sandbox.options import ServerOptions
from mr_celery.sandbox.page import queries
from mr_celery.sandbox.routing import NoEligibleWorkerError
from mr_celery.sandbox.states import TransitionError
from mr_celery.sandbox.store import Store
from mr_celery.sandbox.values import NotFoundError
from support.clock import Clock


def worker_id(store: Store, name: str = "w") -> int:
    worker = store.directory.named(name)
    assert worker is not None
    return int(worker["id"])


def jobs_in_each_state(store: Store) -> dict[str, int]:
    """One job of worker ``w`` in each state, by state."""
    store.directory.register("w", None, [{"name": "send", "risk_tier": "approve"}])
    ids = {"awaiting_approval": store.dispatch("p", "w", {"capability": "send"})["id"]}
    for state in ("pending", "running", "done"):
        ids[state] = store.dispatch("p", "w", {})["id"]
    for state in ("running", "done"):
        store.claim(ids[state], "w")
    store.close_job(ids["done"], "", "done")
    return ids


def test_worker_list_joins_registration_and_presence(store: Store, clock: Clock) -> None:
    store.directory.register("registered", "about it", [{"name": "a.b", "risk_tier": "audit"}])
    store.report({"instance": "present", "status": "busy", "tags": "x", "provider": "ollama"})
    clock.now += 5
    present, registered = store.directory.all()
    assert (present["name"], present["present"], present["age"], present["provider"]) == ("present", True, 5, "ollama")
    assert (present["capabilities"], present["registered_at"]) == (None, None)
    assert (registered["name"], registered["present"], registered["age"]) == ("registered", False, None)
    assert registered["capabilities"] == [{"name": "a.b", "risk_tier": "audit"}]
    assert store.directory.worker(registered["id"]) == registered
    with pytest.raises(NotFoundError, match="there is no worker 9"):
        store.directory.worker(9)


def test_paused_worker_gets_no_jobs(store: Store) -> None:
    store.report({"instance": "w"})
    waiting, running = store.dispatch("p", "w", {})["id"], store.dispatch("p", "w", {})["id"]
    store.claim(running, "w")
    assert store.directory.pause(worker_id(store), paused=True)["paused"] is True
    for name in ("w", None):
        with pytest.raises(NoEligibleWorkerError, match="it is paused"):
            store.dispatch("p", name, {})
    with pytest.raises(TransitionError, match="while the worker is paused"):
        store.claim(waiting, "w")
    assert store.close_job(running, "", "done") == "done", "what it runs goes on"
    store.directory.pause(worker_id(store), paused=False)
    assert store.claim(waiting, "w") == "running"


def test_claim_of_a_capability_that_is_no_longer_registered(store: Store) -> None:
    job_id = store.dispatch("p", "w", {"capability": "old"})["id"]
    store.directory.register("w", None, [{"name": "new", "risk_tier": "auto"}])
    with pytest.raises(TransitionError, match="it is not registered for capability 'old'"):
        store.claim(job_id, "w")


@pytest.mark.parametrize("level", LEVELS)
def test_killswitch_pauses_and_refuses_until_it_is_cleared(store: Store, level: str) -> None:
    ids = jobs_in_each_state(store)
    store.report({"instance": "w"})
    aborted = {"pause": [], "stop": ["running"], "abort": ["awaiting_approval", "pending", "running"]}[level]
    assert store.killswitch.switch_on(level) == [ids[state] for state in aborted]
    assert [store.job(ids[state])["status"] for state in aborted] == ["failed"] * len(aborted)
    assert store.killswitch.state["level"] == level
    assert store.directory.is_paused("w")
    assert store.directory.is_paused("anybody")
    for act in (
        lambda: store.dispatch("p", "w", {}),
        lambda: store.dispatch("p", None, {}),
        lambda: store.requeue(ids["done"]),
        lambda: store.requeue(ids["done"], "retry"),
    ):
        with pytest.raises(KillswitchError, match=f"killswitch is on .level {level}."):
            act()
    store.killswitch.clear()
    assert store.killswitch.state == {"level": None, "since": None}
    assert not store.directory.is_paused("w")
    assert store.dispatch("p", "w", {})["status"] == "pending"


def test_killswitch_keeps_the_time_when_its_level_changes(store: Store, clock: Clock) -> None:
    store.killswitch.switch_on("pause")
    clock.now += 5
    store.killswitch.switch_on("abort")
    assert store.killswitch.state == {"level": "abort", "since": clock.now - 5}


def test_worker_that_was_paused_before_stays_paused(store: Store) -> None:
    store.report({"instance": "w"})
    store.directory.pause(worker_id(store), paused=True)
    store.killswitch.switch_on("pause")
    store.killswitch.clear()
    assert store.directory.is_paused("w")


def test_job_without_a_worker_is_dispatched_later(store: Store) -> None:
    job = store.create("p", None, {"tags": ["code"]})
    assert (job["status"], job["assigned_to"]) == ("pending", None)
    with pytest.raises(NoEligibleWorkerError):
        store.assign(job["id"], None)
    store.report({"instance": "w", "tags": "code"})
    assert store.assign(job["id"], None)["assigned_to"] == "w"
    assert [each["id"] for each in store.inbox("w", "pending")] == [job["id"]]
    assert queries.tally(store, "w")["pending"] == queries.tally(store)["pending"] == 1
    with pytest.raises(TransitionError, match="already assigned"):
        store.assign(job["id"], "w")
    assert [each["event"] for each in store.events(job["id"])] == ["created", "dispatched"]


def test_created_job_is_assigned_without_a_look_at_the_worker(store: Store) -> None:
    store.killswitch.switch_on("pause")
    assert store.create("p", "w", {})["assigned_to"] == "w"


def test_job_that_was_aborted_without_a_worker_is_over(store: Store) -> None:
    job_id = store.create("p", None, {})["id"]
    store.abort(job_id)
    with pytest.raises(TransitionError, match="already over"):
        store.assign(job_id, "w")


def test_change_sets_and_removes_fields(store: Store) -> None:
    job_id = store.dispatch("p", "w", {"tags": ["a"], "tier": "x", "model": None})["id"]
    job = store.change(job_id, {"tags": ["b"], "priority": "high", "tier": None})
    assert (job["tags"], job["priority"], "tier" in job, job["model"]) == (["b"], "high", False, None)
    assert store.change(job_id, {"priority": None})["priority"] == "normal"
    assert store.events(job_id)[-1]["event"] == "changed priority"
    store.claim(job_id, "w")
    with pytest.raises(TransitionError, match="cannot change a job that is running"):
        store.change(job_id, {"tags": []})


def test_other_words_for_the_ends_of_jobs(clock: Clock) -> None:
    words = {"done": "completed", "aborted": "cancelled"}
    store = Store(clock=clock, options=ServerOptions(words=words))
    for _ in range(3):
        store.dispatch("p", "w", {})
    store.claim(1, "w")
    assert store.close_job(1, "out", "done") == "completed"
    assert store.abort(2) == "cancelled"
    assert store.abort_all() == [3]
    assert [job["status"] for job in store.jobs()] == ["cancelled", "cancelled", "completed"]
    assert store.requeue(1) == "pending"
    store.close()


@pytest.fixture
def losing(clock: Clock) -> Iterator[Store]:
    """A store that gives up workers after 100 s."""
    store = Store(clock=clock, options=ServerOptions(requeue_after=100))
    yield store
    store.close()


def test_jobs_of_lost_workers_are_requeued(losing: Store, clock: Clock) -> None:
    for name in ("dead", "alive"):
        losing.report({"instance": name})
        losing.claim(losing.dispatch("p", name, {})["id"], name)
    clock.now += 100
    losing.report({"instance": "alive"})
    assert losing.requeue_lost() == []
    clock.now += 0.1
    assert losing.requeue_lost() == [1]
    job = losing.job(1)
    assert (job["status"], job["assigned_to"], job["claimed_by"]) == ("pending", "dead", None)
    assert losing.events(1)[-1]["event"] == "requeue: the worker has not reported for 100 s"
    assert losing.requeue_lost() == []


def test_worker_that_never_reported_has_its_time_from_the_claim(losing: Store, clock: Clock) -> None:
    clock.now += 500
    losing.claim(losing.dispatch("p", "w", {})["id"], "w")
    assert losing.requeue_lost() == []
    clock.now += 101
    assert losing.requeue_lost() == [1]


def test_workers_have_their_time_after_a_restart_of_the_server(tmp_path: object, clock: Clock) -> None:
    db = f"{tmp_path}/s.db"
    first = Store(db, clock=clock)
    first.claim(first.dispatch("p", "w", {})["id"], "w")
    first.close()
    clock.now += 5000
    second = Store(db, clock=clock, options=ServerOptions(requeue_after=100))
    assert second.requeue_lost() == []
    clock.now += 101
    assert second.requeue_lost() == [1]
    second.close()


def test_requeueing_can_be_switched_off(clock: Clock) -> None:
    store = Store(clock=clock, options=ServerOptions(requeue_after=None))
    store.claim(store.dispatch("p", "w", {})["id"], "w")
    clock.now += 10**6
    assert store.requeue_lost() == []
    store.close()
