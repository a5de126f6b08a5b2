"""The reasons why pending jobs wait, and the intervals at which they are logged."""

from __future__ import annotations

import logging

import pytest

from mr_celery.bridge.waiting import (
    CLAIM_FAILED,
    FULL,
    NO_HANDLER,
    NO_WORKER,
    OTHER,
    PAUSED,
    REASONS,
    Block,
    WaitingJobs,
    blocked,
    match_raised,
    waiting_jobs,
)
from mr_celery.handlers import MatchRaised
from mr_celery.ledger import BridgeProcess, Node, Nodes, Waiting
from mr_celery.telemetry.outages import FIRST_REMINDER
from support.clock import Clock

TASK = "acme.tasks.thumbnail"


def node(name: str = "celery@a", queues: tuple[str, ...] = ("celery",), tasks: tuple[str, ...] = (TASK,)) -> Node:
    return Node(name, 2, queues, tasks)


@pytest.mark.parametrize(
    ("nodes", "text"),
    [
        ([], "3 jobs wait: no worker is online"),
        (
            [node("celery@vm", tasks=())],
            f"3 jobs wait for {TASK}: celery@vm is online, but has none of the tasks: is acme.tasks imported there?",
        ),
        (
            [node("a@1", tasks=()), node("b@1", tasks=())],
            f"3 jobs wait for {TASK}: a@1, b@1 are online, but have none of the tasks: is acme.tasks imported there?",
        ),
        (
            [node(tasks=("acme.tasks.other",))],
            f"3 jobs wait for {TASK}: no online worker has this task (online: celery@a): is acme.tasks imported there?",
        ),
        (
            [node()],
            f"3 jobs wait for {TASK}: no online worker consumes queue 'images' (online: celery@a [celery])",
        ),
        ([node(), node("celery@b", ("images",))], None),
        # The worker that consumes the queue lacks the task.
        (
            [node(), node("celery@b", ("images",), ())],
            f"3 jobs wait for {TASK}: no online worker consumes queue 'images' (online: celery@a [celery])",
        ),
    ],
)
def test_a_job_that_cannot_run_is_explained(nodes: list[Node], text: str | None) -> None:
    block = blocked(TASK, ["images"], Nodes(nodes))
    assert (block and block.text(3)) == text


def test_a_large_fleet_is_not_listed_as_a_whole() -> None:
    block = blocked(TASK, ["images"], Nodes(node(f"celery@{number}") for number in range(100)))
    assert block is not None
    assert block.why.count("celery@") == 5
    assert "and 95 more" in block.why


def test_each_reason_is_one_of_the_metrics_labels() -> None:
    for block in (NO_WORKER, NO_HANDLER, PAUSED, FULL, CLAIM_FAILED, OTHER, match_raised(MatchRaised(TASK, "why"))):
        assert block.reason in REASONS


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def waiting(clock: Clock, caplog: pytest.LogCaptureFixture) -> WaitingJobs:
    caplog.set_level(logging.INFO, logger="mr_celery.bridge")
    return WaitingJobs(clock=clock)


def poll(waiting: WaitingJobs, clock: Clock, seconds: float, *blocks: Block) -> None:
    """Poll once a second."""
    for _ in range(int(seconds)):
        waiting.replace(blocks)
        clock.advance(1.0)


def test_a_short_wait_is_not_logged(waiting: WaitingJobs, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(10):
        poll(waiting, clock, 4, NO_WORKER)
        poll(waiting, clock, 1)
    assert caplog.messages == []


def test_a_wait_is_logged_after_seconds_and_then_rarely(
    waiting: WaitingJobs, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    poll(waiting, clock, 3600, NO_WORKER, NO_WORKER)
    assert caplog.messages[0] == "2 jobs wait: no worker is online (for 5.0 s)"
    assert len(caplog.records) == 6  # after 5 s, then 1, 2, 4, 8, 16 min later
    first, second = (record.seconds for record in caplog.records[:2])  # type: ignore[attr-defined]
    assert second - first == FIRST_REMINDER
    assert {record.reason for record in caplog.records} == {"no_worker"}  # type: ignore[attr-defined]


def test_a_full_fleet_is_not_a_warning(waiting: WaitingJobs, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    poll(waiting, clock, 600, FULL)
    assert caplog.messages == []
    assert [(each.reason, each.count) for each in waiting.now] == [("full", 1)]


def test_the_most_serious_reason_comes_first(waiting: WaitingJobs, clock: Clock) -> None:
    blocks = [FULL, PAUSED, Block("no_queue", "x", TASK), NO_WORKER, FULL]
    waiting.replace(blocks)
    clock.advance(2.5)
    assert [each.reason for each in waiting.now] == ["no_worker", "no_queue", "paused", "full"]
    assert {each.seconds for each in waiting.now} == {2.5}
    waiting.replace([])
    waiting.backlog = 3
    assert [(each.reason, each.count) for each in waiting.now] == [("full", 3)]


def test_no_job_waits_for_a_worker_once_one_is_online() -> None:
    """A bridge announces its findings only at intervals, but other processes read the current workers."""
    waits = (Waiting("no_worker", "6 jobs wait: no worker is online", 6, 9.0), Waiting("full", "x", 1, 0.0))
    bridges = [BridgeProcess("b:1", "b", "1", 60.0, at=100.0, waiting=waits)]
    assert waiting_jobs(bridges, 101.0) == list(waits)
    assert waiting_jobs(bridges, 101.0, has_workers=True) == [waits[1]]
