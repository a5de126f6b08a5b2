"""What the code declares, how it differs from what was registered, and what a refusal means."""

from __future__ import annotations

import pytest
import requests_mock
from celery import Celery

from mr_celery.client import REGISTER, registration
from mr_celery.errors import MrCeleryError
from mr_celery.ledger import Registration
from mr_celery.operations import compare, declared_by, note_registered, register
from mr_celery.operations.registration import differences
from mr_celery.routing import Declaration, Handler, Registry
from support.ledgers import Books, fake_books

URL = "https://mr.example"
TOKEN = "admin-secret-token"


@pytest.fixture
def books(monkeypatch: pytest.MonkeyPatch) -> Books:
    return fake_books(monkeypatch)


def registry(*declarations: Declaration) -> Registry:
    app = Celery("declares", broker="memory://", set_as_current=False)

    def handle(prompt: str) -> str:
        return prompt

    tasks = [app.task(handle, name=f"proj.t{number}", lazy=False) for number in range(len(declarations))]
    return Registry(map(Handler, tasks, declarations))


def test_each_capability_is_declared_once_by_name_and_auto_where_nothing_is_said() -> None:
    found = declared_by(
        registry(
            Declaration("text.new"),
            Declaration("image.generate", risk_tier="audit"),
            Declaration(tags=frozenset({"large"}), risk_tier="session"),
            Declaration(),
        )
    )
    assert list(found.risk_tiers.items()) == [("image.generate", "audit"), ("text.new", "auto")]
    assert found.settled == []


def test_handlers_without_a_capability_declare_none() -> None:
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
def test_of_different_tiers_the_strictest_is_registered_and_that_is_said(
    first: str | None, second: str | None, strictest: str
) -> None:
    found = declared_by(
        registry(
            Declaration("image.generate", risk_tier=first),
            Declaration("image.generate", tags=frozenset({"large"}), risk_tier=second),
        )
    )
    assert found.risk_tiers == {"image.generate": strictest}
    (told,) = found.settled
    assert told == (
        f"image.generate is declared {first or 'auto'} by proj.t0, {second or 'auto'} by proj.t1: "
        f"the strictest is registered, {strictest}"
    )


def test_of_the_same_tier_nothing_is_said() -> None:
    twice = [Declaration("a", risk_tier="auto"), Declaration("a", tags=frozenset({"x"}))]
    assert declared_by(registry(*twice)).settled == []


@pytest.mark.parametrize(
    ("before", "after", "told"),
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
def test_what_differs(before: dict[str, str], after: dict[str, str], told: list[str]) -> None:
    assert differences(before, after) == told


def test_what_was_registered_is_kept_without_end_and_per_server(books: Books) -> None:
    tiers = {"image.generate": "audit"}
    never = compare(books.ledger, URL, tiers)
    assert (never.seconds, never.changes, never.as_declared) == (None, ["+ image.generate (audit)"], False)
    note_registered(books.ledger, URL, tiers)
    assert books.redis.ttl(books.key("registered")) == -1
    same = compare(books.ledger, URL, tiers)
    assert same.as_declared
    assert same.seconds == pytest.approx(0, abs=5)
    assert not compare(books.ledger, URL, {"image.generate": "auto"}).as_declared
    assert compare(books.ledger, "https://other.example", tiers).seconds is None


def test_an_empty_set_can_be_as_declared(books: Books) -> None:
    assert not compare(books.ledger, URL, {}).as_declared
    note_registered(books.ledger, URL, {})
    assert compare(books.ledger, URL, {}).as_declared


def test_its_age_is_told_by_the_clock_of_the_ledger(books: Books) -> None:
    books.ledger.note_registration(Registration(url=URL, risk_tiers={}, at=books.now() - 600))
    assert compare(books.ledger, URL, {}).seconds == pytest.approx(600, abs=5)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"status_code": 401, "text": "no\nno"}, "the server refuses the admin token (401)"),
        ({"status_code": 403}, "the server refuses the admin token (403)"),
        ({"status_code": 409, "text": "the name\nis taken"}, f"POST {REGISTER} -> 409: the name is taken"),
        ({"status_code": 502, "text": "<html>\n<body>"}, "502: <html> <body>; whether the worker is registered now"),
        ({"text": "<html>\n"}, "whether the worker is registered now is not known"),
        ({"json": {"id": 1}}, "no view_url that can be opened; whether the worker is registered now is not known"),
        ({"exc": OSError("unplugged")}, "network: unplugged; whether the worker is registered now is not known"),
    ],
)
def test_a_failure_is_one_line_that_says_what_is_known(
    requests_mock: requests_mock.Mocker, answer: dict[str, object], told: str
) -> None:
    requests_mock.post(URL + REGISTER, **answer)  # type: ignore[arg-type]
    with pytest.raises(MrCeleryError) as caught:
        register(URL, TOKEN, registration("w", "", {}), timeout=5)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)
