"""The form that dispatches jobs."""

from __future__ import annotations

import pytest

from mr_celery.sandbox.page.draft import Draft
from mr_celery.sandbox.values import MalformedError


@pytest.mark.parametrize(
    ("draft", "prompts"),
    [
        (Draft("a"), ["a"]),
        (Draft("a\nb"), ["a\nb"]),
        (Draft("a", copies=" 3 "), ["a", "a", "a"]),
        (Draft("a\n \nb\n", each_line="1"), ["a", "b"]),
        (Draft("a\nb", each_line="1", copies="2"), ["a", "b", "a", "b"]),
    ],
)
def test_prompts(draft: Draft, prompts: list[str]) -> None:
    assert draft.prompts() == prompts


@pytest.mark.parametrize(
    ("draft", "says"),
    [
        (Draft(""), "Prompt"),
        (Draft(" \n "), "Prompt"),
        (Draft(" \n ", each_line="1"), "Prompt"),
        (Draft("a", copies="0"), "Copies"),
        (Draft("a", copies="-1"), "Copies"),
        (Draft("a", copies="x"), "Copies"),
        (Draft("a", copies=""), "Copies"),
        (Draft("a", copies="10001"), "at most 10000 jobs"),
        (Draft("a\nb", copies="5001", each_line="1"), "at most 10000 jobs"),
    ],
)
def test_invalid_drafts(draft: Draft, says: str) -> None:
    with pytest.raises(MalformedError, match=says):
        draft.prompts()


def test_further() -> None:
    draft = Draft("p", capability=" a.b ", tags="x, y ,", priority="high", fields='{"n": 1, "capability": "c"}')
    assert draft.further() == {"n": 1, "capability": "a.b", "tags": ["x", "y"], "priority": "high"}
    assert Draft("p").further() == {}
    for fields in ("[]", "{", "NaN", '{"a": 1e999}'):
        with pytest.raises(MalformedError, match="Further fields: must be a JSON object such as"):
            Draft("p", fields=fields).further()


def test_of_form_ignores_unknown_fields() -> None:
    draft = Draft.of_form({"prompt": "a\r\nb", "copies": "2", "of_job": "x", "unknown": "y"})
    assert draft == Draft("a\nb", copies="2")


def test_of_job() -> None:
    job = {"id": 1, "prompt": "p", "assigned_to": "w", "status": "done", "priority": "low", "result": "r", "x": [1]}
    draft = Draft.of_job({**job, "capability": "a.b", "tags": ["t", "u"]})
    assert (draft.prompt, draft.worker, draft.capability, draft.tags, draft.priority) == (
        "p",
        "w",
        "a.b",
        "t, u",
        "low",
    )
    assert draft.further() == {"x": [1], "capability": "a.b", "tags": ["t", "u"], "priority": "low"}
    for odd in ({"capability": 3}, {"tags": ["a,b"]}, {"tags": "x"}, {"tags": [1]}):
        assert Draft.of_job({**job, **odd}).further() == {"x": [1], "priority": "low", **odd}
