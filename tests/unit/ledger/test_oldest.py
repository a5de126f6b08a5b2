"""The oldest jobs of each state."""

from __future__ import annotations

import pytest

from mr_celery.ledger import IN_FLIGHT, queries
from support.ledgers import LATER, LedgerKit, fake_kit


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> LedgerKit:
    return fake_kit(monkeypatch)


def test_those_that_came_to_a_state_first_are_in_front(kit: LedgerKit) -> None:
    for number in range(1, 6):
        kit.bring("running", number)
    kit.bring("sent", 9)
    for number, age in ((4, 100.0), (2, 50.0)):
        kit.redis.hset(kit.key(f"job:{number}"), "running_at", kit.now() - age)
    found = kit.ledger.oldest(IN_FLIGHT, 3)
    assert tuple(found) == IN_FLIGHT
    assert list(found["running"]) == [4, 2, 1]
    assert list(found["sent"]) == [9]
    assert found["finished"] == {}
    assert all(0.0 < due <= LATER for due in found["running"].values())


def test_many_jobs_and_damaged_records_are_bounded(kit: LedgerKit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "COMPARED", 2)
    kit.redis.zadd(kit.key("running"), {str(number): number for number in range(1, 100)})
    kit.redis.hset(kit.key("job:1"), "running_at", "soon")
    assert sorted(kit.ledger.oldest(["running"], 10)["running"]) == [1, 2]
