"""Exceptions of foreign code become our errors. Our own errors, and exceptions that stop a run, pass unchanged."""

from __future__ import annotations

import io
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from mr_celery.errors import JobAborted, JobError, MrCeleryError, WorkerError, as_text
from mr_celery.files import converted_errors, guarded


def step(error: BaseException, *but: type[Exception]) -> None:
    with converted_errors(lambda error: JobError(f"failed: {as_text(error)}"), *but):
        raise error


@pytest.mark.parametrize(
    ("error", "words"), [(OSError(5, "broken"), "[Errno 5] broken"), (EOFError(), "EOFError"), (KeyError("k"), "'k'")]
)
def test_foreign_error_is_converted_with_its_message_or_type(error: Exception, words: str) -> None:
    with pytest.raises(JobError) as raised:
        step(error)
    assert str(raised.value) == f"failed: {words}"
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
def test_own_errors_and_stop_signals_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        step(error)
    assert raised.value is error


def test_excepted_types_pass() -> None:
    with pytest.raises(FileNotFoundError):
        step(FileNotFoundError(), FileNotFoundError)
    with pytest.raises(JobError):
        step(PermissionError(), FileNotFoundError)


@pytest.mark.parametrize("use", [lambda file: file.read(), lambda file: file.seek(0), lambda file: file.tell()])
def test_guarded_file_guards_every_operation(use: Any) -> None:
    closed = io.BytesIO(b"abc")
    closed.close()
    file = guarded(closed, lambda: converted_errors(JobError))
    with pytest.raises(JobError, match="closed file"):
        use(file)


def test_guarded_file_behaves_like_the_file() -> None:
    file = guarded(io.BytesIO(b"0123456789"), lambda: converted_errors(JobError))
    assert file.seekable()
    assert (file.seek(-4, io.SEEK_END), file.read(2), file.tell(), file.read()) == (6, b"67", 8, b"89")
