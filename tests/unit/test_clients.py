"""The factory of a process' clients."""

from __future__ import annotations

import gc
import os
import weakref

import pytest

from mr_celery.clients import MOST_OTHERS, Clients
from mr_celery.errors import SettingsError
from mr_celery.settings import Settings
from mr_celery.settings.worker_names import WorkerNameOptions
from support.ledgers import INSIDE

SETTINGS = Settings(name="w", token="t", ledger_url=INSIDE)
SEVERAL = Settings(
    token="t",
    ledger_url=INSIDE,
    workers=(WorkerNameOptions("a"), WorkerNameOptions("b", token_env="B_TOKEN", token="of b"), WorkerNameOptions("c")),
)


def test_each_client_is_made_once() -> None:
    clients = Clients(SETTINGS)
    assert clients.ledger() is clients.ledger("w")
    assert clients.fleet() is clients.fleet()
    assert clients.api() is clients.api("w")
    assert clients.ledger("other") is not clients.ledger()


def test_of_invented_worker_names_only_a_few_ledgers_are_kept() -> None:
    clients = Clients(SEVERAL)
    kept = [weakref.ref(clients.ledger(f"invented {number}")) for number in range(3_000)]
    gc.collect()
    assert len([each for each in kept if each() is not None]) <= MOST_OTHERS
    newest = clients.ledger("invented 2999")
    assert clients.ledger("invented 2999") is newest
    assert clients.ledger("a") is clients.ledger("a")
    assert [clients.has_name(name) for name in ("a", "b", "invented 1")] == [True, True, False]


def test_forked_child_makes_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    clients = Clients(SETTINGS)
    before = clients.ledger()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert clients.ledger() is not before


def test_there_is_a_ledger_for_each_worker_name() -> None:
    assert [ledger.worker_name for ledger in Clients(SEVERAL).ledgers()] == ["a", "b", "c"]
    assert [ledger.worker_name for ledger in Clients(SETTINGS).ledgers()] == ["w"]


def test_neighbours_are_the_other_worker_names() -> None:
    of_b = SEVERAL.each()[1]
    assert [ledger.worker_name for ledger in Clients(of_b).neighbours()] == ["a", "c"]


@pytest.mark.parametrize("make", [Clients.ledger, Clients.fleet, Clients.ledgers], ids=lambda make: make.__name__)
def test_a_missing_ledger_is_reported(make: object) -> None:
    with pytest.raises(SettingsError, match="MODELREINS_LEDGER_URL"):
        make(Clients(Settings(name="w", token="t")))  # type: ignore[operator]


def test_a_missing_token_is_reported() -> None:
    with pytest.raises(SettingsError, match="MODELREINS_TOKEN"):
        Clients(Settings(name="w", ledger_url=INSIDE)).api()


def test_there_is_no_spool_without_an_address() -> None:
    assert Clients(SETTINGS).spool() is None
