"""Conclusions from an error about the state of the server."""

from __future__ import annotations

import pickle
import traceback

import pytest

from mr_celery.errors import (
    MOST_CHARACTERS,
    Escalate,
    JobAborted,
    JobError,
    LedgerUnavailable,
    MrCeleryError,
    SettingsError,
    WorkerError,
)
from mr_celery.result import JobFailed
from support.hostile import EVERYTHING, TEXTS, unsafe


@pytest.mark.parametrize(
    ("status", "retryable", "trouble"),
    [
        (None, True, True),
        (None, False, False),
        (200, True, True),
        (400, False, False),
        (401, False, True),
        (403, False, True),
        (404, False, False),
        (404, True, False),
        (409, True, False),
        (410, True, False),
        (413, False, False),
        (429, True, True),
        (500, True, True),
        (503, True, True),
    ],
)
def test_trouble_concerns_the_server_and_not_one_request(status: int | None, retryable: bool, trouble: bool) -> None:
    error = WorkerError("POST /x -> …", status=status, retryable=retryable)
    assert error.trouble is trouble
    assert error.unauthorized is (status in (401, 403))


@pytest.mark.parametrize(
    ("asked", "passed_on", "said"),
    [
        (None, None, ""),
        (2.0, 2.0, ""),
        (5.0, 5.0, "the server requested a pause of 5.0 s (Retry-After)"),
        (1e12, 3600.0, "the server requested a pause of 11574074 d (Retry-After)"),
    ],
)
def test_retry_after_is_bounded_and_logged_unchanged(asked: float | None, passed_on: float | None, said: str) -> None:
    error = WorkerError("GET /x -> 429: no", status=429, retryable=True, retry_after=asked)
    for each in (error, pickle.loads(pickle.dumps(error))):
        assert each.retry_after == passed_on
        assert each.longer_than(2.0) == said


@pytest.mark.parametrize("kind", [MrCeleryError, WorkerError, LedgerUnavailable, SettingsError, JobAborted])
def test_a_message_is_one_printable_line(kind: type[MrCeleryError]) -> None:
    for words in (EVERYTHING, *TEXTS):
        for error in (kind(words), pickle.loads(pickle.dumps(kind(words)))):
            assert str(error).startswith("begin")
            assert unsafe(str(error), kept="") == []
            assert unsafe("".join(traceback.format_exception(error))) == []
    assert len(str(kind("x" * 10**6))) <= MOST_CHARACTERS


@pytest.mark.parametrize("kind", [Escalate, JobError, JobFailed])
def test_the_output_of_a_job_stays_as_it_is(kind: type[MrCeleryError]) -> None:
    assert str(kind("two\n  lines\x1b")) == "two\n  lines\x1b"
