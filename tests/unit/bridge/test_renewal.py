"""The renewer keeps claims and deliveries from expiring while the bridge runs."""

from __future__ import annotations

import pytest

from mr_celery.bridge.limits import CHECK_SECONDS, CLAIM_LEASE
from mr_celery.bridge.renewal import ClaimRenewer
from mr_celery.delivery import DELIVERY_LEASE
from mr_celery.errors import LedgerUnavailable
from support.ledgers import BridgeHarness, make_harness


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> BridgeHarness:
    return make_harness(monkeypatch)


@pytest.fixture
def renewer(harness: BridgeHarness) -> ClaimRenewer:
    return harness.context.renewer


def test_renewals_are_frequent_enough_for_the_shortest_lease(renewer: ClaimRenewer) -> None:
    assert renewer.run_once() == CHECK_SECONDS
    assert min(CLAIM_LEASE, DELIVERY_LEASE) >= CHECK_SECONDS * 3


def test_a_claim_is_renewed_while_it_is_in_progress(harness: BridgeHarness, renewer: ClaimRenewer) -> None:
    harness.bring("admitted")
    renewer.claims.add(1)
    harness.kit.make_due("admitted")
    renewer.run_once()
    assert not harness.kit.is_due("admitted")
    renewer.claims.discard(1)
    harness.kit.make_due("admitted")
    renewer.run_once()
    assert harness.kit.is_due("admitted")


def test_a_delivery_is_renewed_while_it_is_in_progress(harness: BridgeHarness, renewer: ClaimRenewer) -> None:
    harness.bring("finished")
    delivery = harness.kit.collect()
    renewer.deliveries.add(delivery)
    harness.kit.make_due("finished")
    renewer.run_once()
    assert not harness.kit.is_due("finished")
    renewer.deliveries.discard(delivery)
    harness.kit.make_due("finished")
    renewer.run_once()
    assert harness.kit.is_due("finished")


def test_it_uses_only_the_ledger(harness: BridgeHarness, renewer: ClaimRenewer) -> None:
    harness.bring("admitted", 1)
    harness.bring("finished", 2)
    renewer.claims.add(1)
    renewer.deliveries.add(harness.kit.delivery(2))
    renewer.run_once()
    assert (harness.server.calls, harness.publisher.counted) == ([], [])


def test_a_job_that_has_ended_is_not_renewed(harness: BridgeHarness, renewer: ClaimRenewer) -> None:
    harness.bring("closed", 1)
    harness.bring("aborted", 2)
    renewer.claims.add(1)
    renewer.deliveries.add(harness.kit.delivery(2))
    renewer.run_once()
    assert harness.kit.ledger.in_flight() == {}


def test_an_unreachable_ledger_is_an_error_of_the_loop(
    harness: BridgeHarness, renewer: ClaimRenewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise LedgerUnavailable("unreachable")

    monkeypatch.setattr(harness.context.ledger, "settle_later", unreachable)
    renewer.claims.add(1)
    with pytest.raises(LedgerUnavailable):
        renewer.run_once()
