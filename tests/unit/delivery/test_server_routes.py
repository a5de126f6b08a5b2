"""Whether a server has the routes for artifacts and reviews."""

from __future__ import annotations

from typing import Any

import pytest

from mr_celery.delivery.giving_up import Bound
from mr_celery.delivery.server_routes import NOTED_SECONDS, ServerRoutes
from mr_celery.errors import LedgerUnavailable, WorkerError
from support.clock import Clock
from support.ledgers import LedgerKit, fake_kit


class FakeApi:
    """A server whose lists may fail."""

    url = "https://server.test"

    def __init__(self, url: str = url, *, fails: bool = False) -> None:
        self.url = url
        self.fails = fails

    def jobs(self, status: str, **options: Any) -> list[Any]:
        if self.fails:
            raise WorkerError("GET /my-jobs -> 404", status=404)
        return []


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> LedgerKit:
    return fake_kit(monkeypatch)


def routes(kit: LedgerKit, bound: Bound | None = None, *, url: str = FakeApi.url, **more: Any) -> ServerRoutes:
    return ServerRoutes(FakeApi(url), kit.ledger, bound=bound or Bound(3, 0.0), **more)  # type: ignore[arg-type]


def no_route(route: str = "upload") -> WorkerError:
    error = WorkerError("POST /x -> 404: Not Found", status=404)
    error.route = route
    return error


def test_a_route_is_missing_after_several_deliveries_in_a_row(kit: LedgerKit) -> None:
    assert [routes(kit).missing(no_route()) for _ in range(4)] == [False, False, True, True]


def test_some_seconds_must_have_passed(kit: LedgerKit) -> None:
    assert not any(routes(kit, Bound(3, 60.0)).missing(no_route()) for _ in range(20))
    (field,) = kit.redis.hkeys(kit.key("routes"))
    kit.redis.hset(kit.key("routes"), field, f"20 {kit.now() - 61:.6f}")
    assert routes(kit, Bound(3, 60.0)).missing(no_route())


def test_each_route_and_each_server_counts_separately(kit: LedgerKit) -> None:
    for _ in range(3):
        routes(kit).missing(no_route())
    assert not routes(kit).missing(no_route("review"))
    assert not routes(kit, url="https://other.test").missing(no_route())


def test_a_route_that_worked_once_is_not_missing(kit: LedgerKit) -> None:
    routes(kit).works("upload")
    assert not any(routes(kit).missing(no_route()) for _ in range(20))


def test_a_server_that_is_renewed_has_the_route_at_once(kit: LedgerKit) -> None:
    made = routes(kit)
    for _ in range(3):
        made.missing(no_route())
    made.works("upload")
    assert not made.missing(no_route())


def test_a_working_route_is_recorded_rarely(kit: LedgerKit) -> None:
    clock = Clock()
    made = routes(kit, clock=clock)
    made.works("upload")
    kit.redis.flushall()
    made.works("upload")
    assert not kit.redis.exists(kit.key("routes"))
    clock.advance(NOTED_SECONDS)
    made.works("upload")
    assert kit.redis.exists(kit.key("routes"))
    assert 0 < kit.redis.ttl(kit.key("routes")) <= 30 * 86400


def test_an_unreachable_ledger_does_not_prevent_a_later_record(kit: LedgerKit, monkeypatch: pytest.MonkeyPatch) -> None:
    made = routes(kit)

    def away(*args: Any, **kwargs: Any) -> Any:
        raise LedgerUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(kit.ledger, "note_route", away)
        made.works("upload")
        assert not made.surely_missing(no_route())
    made.works("upload")
    assert not any(made.missing(no_route()) for _ in range(20))


@pytest.mark.parametrize("fails", [False, True])
def test_while_nothing_is_answered_no_route_is_missing(kit: LedgerKit, fails: bool) -> None:
    made = ServerRoutes(FakeApi(fails=fails), kit.ledger, bound=Bound(1, 0.0))  # type: ignore[arg-type]
    assert made.surely_missing(no_route()) is not fails
