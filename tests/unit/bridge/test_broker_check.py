"""Detection of broker outages while nothing is published."""

from __future__ import annotations

import pytest

from mr_celery.bridge.broker_check import BrokerCheck
from mr_celery.bridge.publisher import NotPublished
from support.ledgers import BridgeHarness, make_harness


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> BridgeHarness:
    return make_harness(monkeypatch)


def test_an_outage_just_after_a_message_is_noticed_within_15_seconds(
    harness: BridgeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, clock = harness.context, harness.clock
    check, broker = BrokerCheck(context.publisher, context.outages.broker), context.outages.broker

    def refused() -> None:
        clock.advance(2.0)  # the pause before the connection's second try
        raise NotPublished("refused")

    monkeypatch.setattr(context.publisher, "connect", refused, raising=False)
    for since_the_check in (0.0, 6.9):
        broker.works()
        clock.advance(since_the_check)
        began = clock.now
        while broker.seconds is None:
            clock.advance(check.run_once())
        assert clock.now - began <= 15.0
