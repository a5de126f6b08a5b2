"""A ledger whose Redis user has few permissions, on a real Redis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mr_celery.bridge.state import ledger_advice
from mr_celery.errors import LedgerUnavailable
from mr_celery.job import Job
from mr_celery.ledger import Ledger, NotificationsRefused
from mr_celery.ledger.permissions import OPTIONAL
from support.ledgers import ROUTE, LedgerKit, admit
from support.servers import RedisServer


@pytest.fixture
def limited(redis_server: RedisServer) -> Callable[..., LedgerKit]:
    """Creates a ledger for a user with the documented permissions, and further rules."""

    def make(*rules: str) -> LedgerKit:
        url, client = redis_server.ledger_url(1), redis_server.client(1)
        client.execute_command("ACL SETUSER", "ledger", *rules)
        client.execute_command("ACL LOG", "RESET")
        return LedgerKit(Ledger(url, "w"), client)

    return make


def refused(client: Any) -> list[str]:
    return [str(each["object"]) for each in client.acl_log()]


def live(kit: LedgerKit) -> None:
    """Bring a job to its end."""
    assert kit.close(kit.bring("finished").job_id)
    kit.ledger.check_version()
    kit.ledger.mend(["celery"], wait_seconds=0)
    assert kit.ledger.events(1)


def test_nothing_is_refused_with_the_documented_permissions(limited: Callable[..., LedgerKit]) -> None:
    kit = limited()
    live(kit)
    assert kit.ledger.may_notify()
    assert refused(kit.redis) == []


def test_without_the_channel_only_the_notifications_are_missing(limited: Callable[..., LedgerKit]) -> None:
    kit = limited("resetchannels")
    live(kit)
    with pytest.raises(NotificationsRefused, match=r"no permission for the channel modelreins:\{w\}:notifications"):
        next(kit.ledger.listen(1.0))
    assert not kit.ledger.may_notify()
    assert set(refused(kit.redis)) == {"modelreins:{w}:notifications"}


@pytest.mark.parametrize("command", ["publish", "subscribe"])
def test_without_a_command_of_the_notifications_they_are_missing(
    limited: Callable[..., LedgerKit], command: str
) -> None:
    kit = limited(f"-{command}")
    live(kit)
    assert not kit.ledger.may_notify()


def test_without_info_what_it_reports_is_not_known(limited: Callable[..., LedgerKit]) -> None:
    ledger = limited().ledger
    assert (ledger.server_version(), ledger.eviction(), ledger.persists()) == (None, None, None)
    assert not ledger.is_full()
    assert not ledger.unlimited_in_container()
    ledger = limited(*(f"+{name}" for name in OPTIONAL)).ledger
    assert ledger.server_version()
    assert (ledger.eviction(), ledger.persists()) == ("noeviction", False)


def test_a_missing_permission_is_reported(limited: Callable[..., LedgerKit]) -> None:
    kit = limited("-zadd")
    with pytest.raises(LedgerUnavailable) as caught:
        admit(kit.ledger, Job({"id": 1}), ROUTE, asked_at=0.0)
    assert ledger_advice(str(caught.value)).startswith("its user lacks a permission")
    with pytest.raises(LedgerUnavailable) as caught:
        limited("-evalsha").ledger.survey()
    assert ledger_advice(str(caught.value)).startswith("its user lacks a permission")
