"""Risk tiers of registered capabilities: approvals of single jobs and of sessions, and rejections."""

from __future__ import annotations

import pytest

from mr_celery.sandbox.page import queries
from mr_celery.sandbox.states import TransitionError
from mr_celery.sandbox.store import Store
from support.clock import Clock

TIERS = {"read": "auto", "log": "audit", "send": "approve", "edit": "session"}


@pytest.fixture
def registered(store: Store) -> Store:
    """A store in which worker ``w`` is registered with a capability of each tier."""
    store.directory.register("w", None, [{"name": name, "risk_tier": tier} for name, tier in TIERS.items()])
    return store


def dispatched(store: Store, capability: str | None, worker: str = "w") -> int:
    fields = {"capability": capability} if capability else {}
    return int(store.dispatch("p", worker, fields)["id"])


def status(store: Store, job_id: int) -> str:
    return str(store.job(job_id)["status"])


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        (None, "pending"),
        ("read", "pending"),
        ("log", "pending"),
        ("send", "awaiting_approval"),
        ("edit", "awaiting_approval"),
    ],
)
def test_tier_decides_about_the_first_status(registered: Store, capability: str | None, expected: str) -> None:
    assert status(registered, dispatched(registered, capability)) == expected


def test_strictest_tier_of_several_capabilities_counts(registered: Store) -> None:
    job = registered.dispatch("p", "w", {"capability": "read", "capabilities": ["send", "log"]})
    assert job["status"] == "awaiting_approval"


def test_worker_without_registration_needs_no_approval(registered: Store) -> None:
    registered.report({"instance": "v"})
    assert status(registered, dispatched(registered, "send", "v")) == "pending"


def test_approved_job_becomes_pending(registered: Store) -> None:
    first, second = dispatched(registered, "send"), dispatched(registered, "send")
    assert registered.inbox("w", "pending") == []
    with pytest.raises(TransitionError, match="cannot claim a job that is awaiting approval"):
        registered.claim(first, "w")
    assert registered.approvals.approve(first) == [first]
    assert [job["id"] for job in registered.inbox("w", "pending")] == [first]
    assert status(registered, second) == "awaiting_approval", "each job of tier approve needs its own approval"
    with pytest.raises(TransitionError, match="cannot approve a job that is pending"):
        registered.approvals.approve(first)
    assert [each["event"] for each in registered.events(first)][0::2] == ["dispatched", "approve"]


def test_approval_is_good_for_further_runs_of_the_job(registered: Store) -> None:
    job_id = dispatched(registered, "send")
    registered.approvals.approve(job_id)
    registered.claim(job_id, "w")
    assert registered.requeue(job_id) == "pending"
    registered.abort(job_id)
    assert registered.requeue(job_id, "retry") == "pending"


def test_job_that_was_never_approved_waits_again(registered: Store) -> None:
    job_id = dispatched(registered, "send")
    registered.abort(job_id)
    assert registered.requeue(job_id, "retry") == "awaiting_approval"


def test_rejected_job_has_failed(registered: Store) -> None:
    job_id = dispatched(registered, "send")
    assert registered.reject(job_id) == "failed"
    assert registered.job(job_id)["result"] == "rejected by an operator"
    with pytest.raises(TransitionError, match="cannot approve a job that is failed"):
        registered.approvals.approve(job_id)
    other = dispatched(registered, "send")
    registered.reject(other, " it is too late ")
    assert registered.job(other)["result"] == "rejected by an operator: it is too late"
    assert registered.events(other)[-1]["event"] == "reject: it is too late"


def test_session_is_approved_once(registered: Store) -> None:
    first, second, other = (dispatched(registered, each) for each in ("edit", "edit", "send"))
    assert registered.approvals.approve(second) == [second, first]
    assert status(registered, other) == "awaiting_approval"
    assert status(registered, dispatched(registered, "edit")) == "pending"


@pytest.mark.parametrize("end", ["registration", "killswitch"])
def test_session_ends(registered: Store, end: str) -> None:
    registered.approvals.approve(dispatched(registered, "edit"))
    if end == "registration":
        registered.directory.register("w", None, [{"name": "edit", "risk_tier": "session"}])
    else:
        registered.killswitch.switch_on("pause")
        registered.killswitch.clear()
    assert status(registered, dispatched(registered, "edit")) == "awaiting_approval"


def test_abort_of_all_includes_waiting_jobs(registered: Store, clock: Clock) -> None:
    job_id = dispatched(registered, "send")
    assert queries.tally(registered) == {"awaiting_approval": 1, **dict.fromkeys(
        ("pending", "running", "done", "failed", "escalated"), 0)}  # fmt: skip
    assert registered.abort_all() == [job_id]
    assert "awaiting_approval" not in queries.tally(registered)
