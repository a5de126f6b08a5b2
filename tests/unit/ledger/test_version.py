"""The version of the ledger's format, and processes that find a different one."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from celery import Celery

from mr_celery import modelreins_job
from mr_celery.bridge.bridge import Bridge
from mr_celery.celery_worker.setup import set_up_worker
from mr_celery.errors import SettingsError
from mr_celery.ledger import LEDGER_VERSION, Ledger
from mr_celery.operations.check import _check_ledger
from mr_celery.settings import Settings
from support.ledgers import INSIDE, LedgerKit, fake_kit

SETTINGS = Settings(name="w", token="t", ledger_url=INSIDE)


def same(prompt: str) -> str:
    return prompt


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> LedgerKit:
    monkeypatch.setattr(Ledger, "server_version", lambda self: (7, 0, 0))  # the in-process Redis has no INFO
    monkeypatch.setattr(Ledger, "eviction", lambda self: "noeviction")
    return fake_kit(monkeypatch)


@pytest.fixture
def app() -> Celery:
    made = Celery("version", broker="memory://", set_as_current=False)
    made.conf.modelreins_ledger_url = INSIDE
    modelreins_job("version")(made.task(same, name="version.task", lazy=False))
    return made


def test_new_ledger_gets_the_version_of_the_first_process(kit: LedgerKit) -> None:
    assert kit.ledger.version() is None
    kit.ledger.check_version()
    assert kit.ledger.version() == LEDGER_VERSION
    kit.ledger.check_version()


def test_version_is_the_same_for_all_worker_names(kit: LedgerKit) -> None:
    kit.ledger.check_version()
    assert Ledger(INSIDE, "another name").version() == LEDGER_VERSION


def test_version_with_another_prefix_is_another_one(kit: LedgerKit) -> None:
    kit.redis.set(kit.ledger.version_key, "1")
    other = Ledger(INSIDE, "w", prefix="shop:")
    other.check_version()
    assert (other.version(), kit.ledger.version()) == (LEDGER_VERSION, "1")
    assert "delete the key shop:modelreins:{fleet}:version," in other.version_hint


@pytest.mark.parametrize("version", ["1", "2", "", "not a number"])
def test_another_version_is_refused_and_kept(kit: LedgerKit, version: str) -> None:
    kit.redis.set(kit.ledger.version_key, version)
    with pytest.raises(
        SettingsError, match=f"the ledger has version {version}, this process needs version {LEDGER_VERSION}: .* drain"
    ):
        kit.ledger.check_version()
    assert kit.ledger.version() == version


def test_version_does_not_expire(kit: LedgerKit) -> None:
    kit.ledger.check_version()
    assert kit.redis.ttl(kit.ledger.version_key) == -1


def test_bridge_refuses_to_start(kit: LedgerKit, app: Celery) -> None:
    kit.redis.set(kit.ledger.version_key, "1")
    with pytest.raises(SettingsError, match="the ledger has version 1"):
        Bridge(app, SETTINGS).start()


def test_worker_refuses_to_start(kit: LedgerKit, app: Celery) -> None:
    kit.redis.set(kit.ledger.version_key, "1")
    with pytest.raises(SystemExit, match="mr-celery: the ledger has version 1"):
        set_up_worker(SimpleNamespace(app=app, hostname="celery@a", quiet=False, loglevel="INFO", logfile=None))


def test_check_reports_it_and_stores_nothing(kit: LedgerKit) -> None:
    assert [finding.ok for finding, _ in _check_ledger(SETTINGS, derived=False) if finding.what == "ledger"] == [True]
    assert kit.ledger.version() is None
    kit.redis.set(kit.ledger.version_key, "1")
    ((finding, nodes),) = _check_ledger(SETTINGS, derived=False)
    assert (finding.what, finding.ok, finding.detail, nodes) == (
        "ledger",
        False,
        f"has version 1, not {LEDGER_VERSION}",
        None,
    )
    assert "drain" in finding.hint


def test_no_second_ledger_is_begun_because_of_celerys_prefix(kit: LedgerKit, app: Celery) -> None:
    """Version 0.1 does not put Celery's prefix in front of the ledger's keys: its jobs would run here a second time."""
    app.conf.modelreins_ledger_url = None
    app.conf.broker_url = INSIDE
    app.conf.broker_transport_options = {"global_keyprefix": "shop:"}
    kit.ledger.check_version()
    worker = SimpleNamespace(app=app, hostname="celery@a", quiet=False, loglevel="INFO", logfile=None)
    refusal = "a ledger without the prefix 'shop:'.* modelreins_ledger_prefix = \"\" .* MODELREINS_LEDGER_PREFIX=shop:$"
    with pytest.raises(SystemExit, match=refusal):
        set_up_worker(worker)
    with pytest.raises(SettingsError, match=refusal):
        Bridge(app, replace(SETTINGS, ledger_prefix="shop:")).start()
    (finding, _), *others = _check_ledger(
        replace(SETTINGS, ledger_prefix="shop:"), derived=True, prefix_is_derived=True
    )
    assert (finding.what, finding.ok, others) == ("ledger", False, [])
    assert finding.hint.startswith("To go on with that ledger, set ")
    prefixed = Ledger(INSIDE, "w", prefix="shop:")
    assert prefixed.version() is None
    prefixed.check_version()
    prefixed.check_version(prefix_is_derived=True)
