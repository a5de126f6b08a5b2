"""A ledger with more than a thousand jobs in flight."""

from __future__ import annotations

import pytest

from support.ledgers import LedgerKit, fake_kit


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> LedgerKit:
    return fake_kit(monkeypatch)


def test_an_inventory_is_read_in_pages_and_without_payloads(kit: LedgerKit) -> None:
    for job_id in range(1, 1301):
        kit.bring("claimed", job_id, prompt="a secret prompt")
    kit.bring("finished", 2000)
    inventory = kit.ledger.inventory(also=[5000])
    assert len(inventory.rows) == 1302
    assert {each.state for each in inventory.rows.values()} == {"claimed", "finished", ""}
    assert inventory.rows[1300].slots == ("celery",)
    assert inventory.rows[2000].slots == ()
    assert 0 <= inventory.rows[2000].seconds < 60
    assert "secret" not in repr(inventory)
