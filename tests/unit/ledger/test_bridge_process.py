"""The announcements of bridges."""

from __future__ import annotations

import pytest

from mr_celery.ledger import BridgeProcess


@pytest.mark.parametrize(("age", "is_old"), [(0.0, False), (12.0, False), (13.0, True), (-1.0, False), (-3600.0, True)])
def test_an_announcement_is_read_as_the_present_near_its_time(age: float, is_old: bool) -> None:
    """An announcement from the future was made before the ledger's clock was set back."""
    bridge = BridgeProcess("a:1", "a", "1", uptime=1.0, at=100_000.0, interval=5.0)
    assert bridge.is_old(bridge.at + age) is is_old
