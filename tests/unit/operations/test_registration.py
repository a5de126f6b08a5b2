"""Declared capabilities, changes since the last registration, and errors of the server."""

from __future__ import annotations

import pytest
from celery import Celery

from mr_celery.errors import MrCeleryError
from mr_celery.handlers import Declaration, Handler, Registry
from mr_celery.ledger import Registration
from mr_celery.operations import compare, declared_by, note_registered, register
from mr_celery.operations.registration import Declared, differences
from mr_celery.server import REGISTER, registration
from support.ledgers import LedgerKit, fake_kit
from support.mocked_http import MockedHttp

URL = "https://mr.example"
TOKEN = "admin-secret-token"


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> LedgerKit:
    return fake_kit(monkeypatch)


def registry(*declarations: Declaration) -> Registry:
    app = Celery("declares", broker="memory://", set_as_current=False)

    def handle(prompt: str) -> str:
        return prompt

    tasks = [app.task(handle, name=f"proj.t{number}", lazy=False) for number in range(len(declarations))]
    return Registry(map(Handler, tasks, declarations))


def test_capabilities_are_sorted_and_default_to_tier_auto() -> None:
    found = declared_by(
        registry(
            Declaration(("text.new",)),
            Declaration(("image.generate",), risk_tier="audit"),
            Declaration(tags=frozenset({"large"}), risk_tier="session"),
            Declaration(),
        )
    )
    assert list(found.risk_tiers.items()) == [("image.generate", "audit"), ("text.new", "auto")]
    assert found.settled == []


def test_handlers_without_capabilities() -> None:
    assert declared_by(registry(Declaration(), Declaration(tags=frozenset({"large"})))).risk_tiers == {}


@pytest.mark.parametrize(
    ("first", "second", "strictest"),
    [
        (None, "audit", "audit"),
        ("audit", None, "audit"),
        ("approve", "audit", "approve"),
        ("approve", "session", "session"),
        ("session", "auto", "session"),
    ],
)
def test_strictest_tier_wins_with_a_message(first: str | None, second: str | None, strictest: str) -> None:
    found = declared_by(
        registry(
            Declaration(("image.generate",), risk_tier=first),
            Declaration(("image.generate",), tags=frozenset({"large"}), risk_tier=second),
        )
    )
    assert found.risk_tiers == {"image.generate": strictest}
    (message,) = found.settled
    assert message == (
        f"image.generate is declared {first or 'auto'} by proj.t0, {second or 'auto'} by proj.t1; "
        f"using the strictest: {strictest}"
    )


def test_secrets_of_all_handlers_of_a_capability_are_required(kit: LedgerKit) -> None:
    found = declared_by(
        registry(
            Declaration(("pay", "refund"), requires_secrets=("vault://b", "vault://a")),
            Declaration(("pay",), tags=frozenset({"x"}), requires_secrets=("vault://a", "vault://c")),
            Declaration(("text",)),
        )
    )
    assert found.secrets == {"pay": ["vault://a", "vault://b", "vault://c"], "refund": ["vault://a", "vault://b"]}
    assert registration("w", "d", found.risk_tiers, found.secrets)["capabilities"] == [
        {"name": "pay", "risk_tier": "auto", "requires_secrets": ["vault://a", "vault://b", "vault://c"]},
        {"name": "refund", "risk_tier": "auto", "requires_secrets": ["vault://a", "vault://b"]},
        {"name": "text", "risk_tier": "auto"},
    ]
    note_registered(kit.ledger, URL, found)
    assert compare(kit.ledger, URL, found).as_declared
    fewer = Declared(found.risk_tiers, {"refund": ["vault://a", "vault://b"], "pay": ["vault://a"]})
    assert compare(kit.ledger, URL, fewer).changes == ["~ pay: auto, vault://a, vault://b, vault://c → auto, vault://a"]


def test_equal_tiers_give_no_message() -> None:
    twice = [Declaration(("a",), risk_tier="auto"), Declaration(("a",), tags=frozenset({"x"}))]
    assert declared_by(registry(*twice)).settled == []


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ({}, {}, []),
        ({"a": "auto"}, {"a": "auto"}, []),
        ({"b": "auto", "a": "audit"}, {"a": "audit", "b": "auto"}, []),
        ({}, {"image.generate": "audit"}, ["+ image.generate (audit)"]),
        ({"text.old": "auto"}, {}, ["- text.old"]),
        ({"x": "auto"}, {"x": "audit"}, ["~ x: auto → audit"]),
        ({"c": "auto", "b": "auto"}, {"a": "auto", "b": "session"}, ["+ a (auto)", "~ b: auto → session", "- c"]),
    ],
)
def test_differences(before: dict[str, str], after: dict[str, str], changes: list[str]) -> None:
    assert differences(before, after) == changes


def test_registration_is_stored_per_server_without_expiry(kit: LedgerKit) -> None:
    tiers = Declared({"image.generate": "audit"})
    never = compare(kit.ledger, URL, tiers)
    assert (never.seconds, never.changes, never.as_declared) == (None, ["+ image.generate (audit)"], False)
    note_registered(kit.ledger, URL, tiers)
    assert kit.redis.ttl(kit.key("registered")) == -1
    same = compare(kit.ledger, URL, tiers)
    assert same.as_declared
    assert same.seconds == pytest.approx(0, abs=5)
    assert not compare(kit.ledger, URL, Declared({"image.generate": "auto"})).as_declared
    assert compare(kit.ledger, "https://other.example", tiers).seconds is None


def test_empty_registration_can_be_up_to_date(kit: LedgerKit) -> None:
    assert not compare(kit.ledger, URL, Declared({})).as_declared
    note_registered(kit.ledger, URL, Declared({}))
    assert compare(kit.ledger, URL, Declared({})).as_declared


def test_age_uses_the_ledgers_clock(kit: LedgerKit) -> None:
    kit.ledger.note_registration(Registration(url=URL, risk_tiers={}, at=kit.now() - 600))
    assert compare(kit.ledger, URL, Declared({})).seconds == pytest.approx(600, abs=5)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"status_code": 401, "text": "no\nno"}, "the server refused the admin token (401)"),
        ({"status_code": 403}, "the server refused the admin token (403)"),
        ({"status_code": 409, "text": "the name\nis taken"}, f"POST {REGISTER} -> 409: the name is taken"),
        ({"status_code": 502, "text": "<html>\n<body>"}, "502: <html> <body>; the worker may or may not be registered"),
        ({"text": "<html>\n"}, "the worker may or may not be registered now"),
        ({"json": {"id": 1}}, "no view_url that can be opened; the worker may or may not be registered now"),
        ({"exc": OSError("unplugged")}, "network: unplugged; the worker may or may not be registered now"),
    ],
)
def test_errors_of_the_server_are_one_line(mocked_http: MockedHttp, answer: dict[str, object], message: str) -> None:
    mocked_http.post(URL + REGISTER, **answer)  # type: ignore[arg-type]
    with pytest.raises(MrCeleryError) as caught:
        register(URL, TOKEN, registration("w", "", {}), timeout=5)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)
