"""The meaning of a status, in any wording, case and spelling."""

from __future__ import annotations

import pytest

from mr_celery.server.job_status import MOST_CHARACTERS, is_same_end, phase_of, status_word
from support.statuses import DONE, ENDED_BY_OTHERS, FAILED, NO_WORD, OVER, PENDING, RUNNING, short


@pytest.mark.parametrize(
    ("value", "phase"),
    [
        *((value, "pending") for value in PENDING),
        *((value, "running") for value in RUNNING),
        *((value, "over") for value in OVER),
        *((value, "unknown") for value in NO_WORD),
    ],
    ids=short,
)
def test_phases(value: object, phase: str) -> None:
    assert phase_of(value) == phase


@pytest.mark.parametrize("value", OVER, ids=short)
def test_a_word_can_be_shown(value: str) -> None:
    word = status_word(f"\n{value}\x1b[31m\u202e")
    assert 0 < len(word) <= MOST_CHARACTERS
    assert word.isprintable()
    assert word == word.casefold()


@pytest.mark.parametrize("value", NO_WORD, ids=short)
def test_a_value_without_a_word_is_empty(value: object) -> None:
    assert status_word(value) == ""


@pytest.mark.parametrize("value", [*PENDING, *RUNNING, *OVER, *NO_WORD], ids=short)
def test_the_same_end(value: object) -> None:
    for status, same in {"done": DONE, "failed": FAILED, "escalated": ("escalated", "Escalated")}.items():
        assert is_same_end(value, status) is (value in same)


def test_the_word_of_an_operator_is_none_of_ours() -> None:
    assert not any(is_same_end(word, status) for word in ENDED_BY_OTHERS for status in ("done", "failed", "escalated"))
