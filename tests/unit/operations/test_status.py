"""The status of many worker names on a fleet of many workers: its reads and its output."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from celery import Celery
from click import unstyle

from mr_celery.bridge.state import State
from mr_celery.cli.status import lines
from mr_celery.handlers import Registry
from mr_celery.ledger import Ledger, Node, Nodes
from mr_celery.ledger.scripts import Scripts
from mr_celery.operations import Status, Subject, read_statuses
from mr_celery.operations.check import _check_workers
from mr_celery.settings import Settings
from support.ledgers import INSIDE, BridgeHarness, make_harness

MANY = Nodes(Node(f"celery@host-{number:05}", 4, ("celery",), ("tiny.upper",)) for number in range(10_000))


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the scripts that the ledger runs."""
    counts: Counter[str] = Counter()
    run = Scripts.run

    def count(self: Scripts, *names: str, **rest: Any) -> Any:
        counts[names[-1]] += 1
        return run(self, *names, **rest)

    monkeypatch.setattr(Scripts, "run", count)
    return counts


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> BridgeHarness:
    return make_harness(monkeypatch)


@pytest.mark.parametrize("names", [1, 4, 16])
def test_each_worker_name_costs_the_same_steps_however_many_there_are(
    harness: BridgeHarness, steps: Counter[str], names: int
) -> None:
    routes = harness.context.routes
    subjects = [Subject(Ledger(INSIDE, f"name-{number}"), routes, None) for number in range(names)]
    seen = read_statuses(harness.fleet, subjects, [Ledger(INSIDE, "elsewhere")])
    assert [status.worker_name for status in seen] == [subject.ledger.worker_name for subject in subjects]
    assert steps.pop("changed_nodes") == 1
    assert steps == {"survey": names + 1, "snapshot": names, "online": names}


def test_the_share_of_each_worker_name_considers_all_others(harness: BridgeHarness) -> None:
    harness.bring("running")  # of two workers with four slots in each of two queues
    subjects = [Subject(Ledger(INSIDE, name), harness.context.routes, None) for name in ("w", "b")]
    own, other = read_statuses(harness.fleet, subjects)
    assert (own.taken, own.capacity) == (1, 8)
    assert (other.taken, other.capacity) == (0, 7)
    assert own.shared


def test_the_status_of_thousands_of_workers_fits_on_a_screen_or_two() -> None:
    status = Status(
        worker_name="w",
        at=100.0,
        state=State("idle", "idle"),
        problems=(),
        pause=None,
        bridges=(),
        nodes=MANY,
        capacity=80_000,
        taken=0,
        states={},
        waiting=None,
        undelivered=None,
        ended={60.0: {"done": 0, "failed": 0}},
    )
    shown = [unstyle(line) for line in lines([status])]
    assert len(shown) < 60
    assert "and 9960 more workers with 39840 slots; --json lists all" in shown


def test_the_check_of_thousands_of_workers_names_some() -> None:
    app = Celery("none", broker="memory://", set_as_current=False)
    (finding,) = _check_workers(app, Settings(name="w"), Registry([]), MANY)
    assert finding.ok
    assert finding.detail.endswith("celery@host-00009 and 9990 more; 40000 slots")
