"""Routing: which workers are eligible for a job, and which of them gets it."""

from __future__ import annotations

from typing import Any

import pytest

from mr_celery.sandbox.routing import Candidate, NoEligibleWorkerError, Wanted, choose, obstacle_for_named, split_tags

REGISTERED = frozenset({"email.triage", "email.reply"})


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, Wanted()),
        ({"capability": "a.b", "tags": ["x", "y", "x"], "provider": "ollama"}, Wanted(("a.b",), ("x", "y"), "ollama")),
        ({"capability": "a.b", "capabilities": ["c.d", "a.b"]}, Wanted(("a.b", "c.d"))),
        ({"capability": None, "tags": None, "provider": None}, Wanted()),
        ({"capability": 5, "tags": [None, " ", {}, " z "], "provider": " "}, Wanted(tags=("z",))),
        ({"tags": "draft"}, Wanted(tags=("draft",))),
    ],
)
def test_requirements_of_a_job(fields: dict[str, Any], wanted: Wanted) -> None:
    assert Wanted.of(fields) == wanted


@pytest.mark.parametrize(
    ("text", "tags"), [(None, ()), ("", ()), (" , ", ()), ("code, draft,economy", ("code", "draft", "economy"))]
)
def test_tags_of_a_report(text: str | None, tags: tuple[str, ...]) -> None:
    assert split_tags(text) == set(tags)


@pytest.mark.parametrize(
    ("wanted", "worker", "reason"),
    [
        (Wanted(), Candidate("w", paused=True), "paused"),
        (Wanted(("other",)), Candidate("w", REGISTERED), "not registered for capability 'other'"),
        (Wanted(("email.triage", "other")), Candidate("w", REGISTERED), "not registered for capability 'other'"),
        (Wanted(("email.triage",)), Candidate("w", frozenset()), "not registered for capability 'email.triage'"),
        (Wanted(tags=("code",)), Candidate("w"), "does not report tag 'code'"),
        (Wanted(tags=("code", "draft")), Candidate("w", tags=frozenset({"code"})), "does not report tag 'draft'"),
        (Wanted(provider="ollama"), Candidate("w"), "does not report provider 'ollama'"),
        (Wanted(provider="ollama"), Candidate("w", provider="openai"), "does not report provider 'ollama'"),
    ],
)
def test_only_worker_is_not_eligible(wanted: Wanted, worker: Candidate, reason: str) -> None:
    with pytest.raises(NoEligibleWorkerError, match=f"no worker is eligible .w: it (is )?{reason}.$"):
        choose(wanted, [worker])


@pytest.mark.parametrize(
    ("wanted", "workers", "chosen"),
    [
        (Wanted(), [Candidate("last"), Candidate("first")], "last"),
        (Wanted(), [Candidate("full", busy=True), Candidate("free")], "free"),
        (Wanted(), [Candidate("full", busy=True)], "full"),
        (Wanted(("a.b",)), [Candidate("any"), Candidate("names it", tags=frozenset({"a.b"}))], "names it"),
        (Wanted(("email.triage",)), [Candidate("any"), Candidate("registered", REGISTERED)], "registered"),
        (Wanted(("x",)), [Candidate("registered", REGISTERED), Candidate("any")], "any"),
        (Wanted(tags=("code",)), [Candidate("other"), Candidate("code", tags=frozenset({"code", "x"}))], "code"),
        (Wanted(provider="OpenAI"), [Candidate("none"), Candidate("it", provider="openai")], "it"),
        (Wanted(), [Candidate("paused", paused=True), Candidate("on")], "on"),
    ],
)
def test_choice(wanted: Wanted, workers: list[Candidate], chosen: str) -> None:
    assert choose(wanted, workers) == chosen


def test_named_worker_needs_no_tags_and_no_provider() -> None:
    assert obstacle_for_named(Wanted(("email.reply",), ("code",), "ollama"), Candidate("w", REGISTERED)) is None


def test_nobody_is_present() -> None:
    with pytest.raises(NoEligibleWorkerError, match="no worker is present"):
        choose(Wanted(), [])
