"""What others raise is told as an error of ours; what is ours, or stops a run, goes through."""

from __future__ import annotations

import io
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from mr_celery.errors import JobAborted, JobError, MrCeleryError, WorkerError
from mr_celery.foreign import guarded, told


def step(error: BaseException, *but: type[Exception]) -> None:
    with told(lambda why: JobError(f"told: {why}"), *but):
        raise error


@pytest.mark.parametrize(
    ("error", "words"), [(OSError(5, "broken"), "[Errno 5] broken"), (EOFError(), "EOFError"), (KeyError("k"), "'k'")]
)
def test_an_error_of_others_is_told_in_its_words_or_by_its_kind(error: Exception, words: str) -> None:
    with pytest.raises(JobError) as raised:
        step(error)
    assert str(raised.value) == f"told: {words}"
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        MrCeleryError("ours"),
        WorkerError("POST /x -> 503"),
        JobAborted("stop"),
        SoftTimeLimitExceeded(600),
        KeyboardInterrupt(),
        SystemExit(-241),
    ],
    ids=repr,
)
def test_ours_and_what_stops_the_run_go_through(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        step(error)
    assert raised.value is error


def test_what_is_excepted_goes_through() -> None:
    with pytest.raises(FileNotFoundError):
        step(FileNotFoundError(), FileNotFoundError)
    with pytest.raises(JobError):
        step(PermissionError(), FileNotFoundError)


@pytest.mark.parametrize("use", [lambda file: file.read(), lambda file: file.seek(0), lambda file: file.tell()])
def test_a_guarded_file_is_guarded_in_each_of_its_uses(use: Any) -> None:
    closed = io.BytesIO(b"abc")
    closed.close()
    file = guarded(closed, lambda: told(JobError))
    with pytest.raises(JobError, match="closed file"):
        use(file)


def test_a_guarded_file_is_the_file() -> None:
    file = guarded(io.BytesIO(b"0123456789"), lambda: told(JobError))
    assert file.seekable()
    assert (file.seek(-4, io.SEEK_END), file.read(2), file.tell(), file.read()) == (6, b"67", 8, b"89")
