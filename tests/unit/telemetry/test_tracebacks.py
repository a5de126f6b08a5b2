"""Exceptions leave the package without the variables of its frames."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any
from unittest.mock import Mock

import click
import pytest
import urllib3.connection
from celery.exceptions import SoftTimeLimitExceeded
from click.testing import CliRunner

import mr_celery
from mr_celery import Job, Worker
from mr_celery.cli.operating import Group
from mr_celery.completion import Caller
from mr_celery.server import transport
from mr_celery.telemetry.redaction import redacted
from mr_celery.telemetry.tracebacks import (
    calls_application,
    hide_variables,
    hides_variables,
    hides_variables_of_coroutine,
)
from support.trackers import frames_of, variables_of

MARK = "Marked51ce"


def inside(module: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function as if it were defined in another module."""
    assert isinstance(function, FunctionType)
    return FunctionType(
        function.__code__, {**globals(), "__name__": module}, function.__name__, None, function.__closure__
    )


def fails(word: str) -> None:
    raise ValueError("no")


def calls(step: Callable[..., Any], word: str) -> Any:
    return step(word)


def enters(step: Callable[..., Any], word: str) -> Any:
    return step(word)


calls_application(enters)

library = inside("urllib3.pool", calls)
celery = inside("celery.app.autoretry", calls)
ours = inside("mr_celery.part", calls)
entrance = inside("mr_celery.entrance", enters)
application = inside("proj.tasks", calls)
raises = inside("proj.tasks", fails)


def error_of(function: Callable[..., Any], *args: Any) -> BaseException:
    """The exception that a function raises."""
    try:
        function(*args)
    except BaseException as error:
        return error
    raise AssertionError("it returned")


def raised(*path: Callable[..., Any]) -> BaseException:
    """The exception of functions that call each other, the last of which raises it, as it leaves the package."""
    *before, last = path
    step = last
    for each in reversed(before):
        step = partial(each, step)
    return error_of(hides_variables(step), MARK)


def with_variables(error: BaseException) -> list[str]:
    """The modules of the frames that still have a variable ``word``."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return [str(frame.f_globals["__name__"]) for frame in frames if "word" in frame.f_locals]


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ((ours, raises), []),
        ((ours, library, raises), []),
        ((entrance, raises), ["proj.tasks"]),
        ((ours, entrance, application, library, raises), ["proj.tasks", "urllib3.pool", "proj.tasks"]),
        ((entrance, celery, raises), ["proj.tasks"]),
        ((entrance, application, ours, library, raises), ["proj.tasks"]),
        ((entrance, application, ours, entrance, raises), ["proj.tasks", "proj.tasks"]),
    ],
)
def test_only_the_frames_of_the_application_keep_their_variables(path: tuple[Any, ...], kept: list[str]) -> None:
    assert with_variables(raised(*path)) == kept


def test_an_exception_may_leave_several_times() -> None:
    again = hides_variables(partial(ours, hides_variables(partial(entrance, partial(application, raises)))))
    assert with_variables(error_of(again, MARK)) == ["proj.tasks", "proj.tasks"]


def test_file_line_and_function_of_all_frames_stay() -> None:
    step = partial(ours, partial(library, raises))
    plain, hidden = error_of(step, MARK), error_of(hides_variables(step), MARK)
    names = [("mr_celery.part", "calls"), ("urllib3.pool", "calls"), ("proj.tasks", "fails")]
    assert frames_of(hidden)[-3:] == frames_of(plain)[-3:] == names

    def lines(error: BaseException) -> list[str]:
        return [line.strip() for line in "".join(traceback.format_exception(error)).split("\n")][-8:]

    marked = [line for line in lines(plain) if set(line) - set("~^ ") or not line]
    assert lines(hidden)[-len(marked) + 1 :] == marked[1:]


def test_the_function_that_hides_shows_nothing() -> None:
    assert MARK not in variables_of(raised(ours, raises), besides=__file__)


def test_variables_of_causes_contexts_and_groups_are_hidden() -> None:
    def contextual(word: str) -> None:
        try:
            fails(word)
        except ValueError:
            raise KeyError("other") from OSError(1, "cause")

    error = error_of(hides_variables(inside("mr_celery.first", contextual)), MARK)
    assert error.__context__ is not None
    assert with_variables(error) == with_variables(error.__context__) == []


if sys.version_info >= (3, 11):  # which brought groups of exceptions

    def test_variables_in_a_group_are_hidden() -> None:
        def grouped(word: str) -> None:
            try:
                fails(word)
            except ValueError as error:
                raise ExceptionGroup("all", [error]) from None  # noqa: F821 - ruff checks for 3.10

        error: Any = error_of(hides_variables(inside("mr_celery.first", grouped)), MARK)
        assert with_variables(error.exceptions[0]) == []


def test_exceptions_that_refuse_it_pass_as_they_are() -> None:
    class Stubborn(Exception):
        __traceback__ = property()  # type: ignore[assignment]

    first, second = ValueError(), ValueError()
    first.__context__, second.__context__ = second, first
    hide_variables(first)

    def stubborn() -> None:
        raise Stubborn

    assert isinstance(error_of(hides_variables(stubborn)), Stubborn)


def test_coroutines() -> None:
    async def step(word: str) -> None:
        fails(word)

    assert (
        with_variables(error_of(asyncio.run, hides_variables_of_coroutine(inside("mr_celery.first", step))(MARK))) == []
    )


def test_redacted_exceptions_have_no_variables_at_all() -> None:
    error = error_of(application, raises, MARK)
    assert MARK in variables_of(error)
    assert MARK not in variables_of(redacted(error))
    assert frames_of(redacted(error)) == frames_of(error)


# -- where exceptions leave ------------------------------------------------------------------------------


SDK = {
    "heartbeat": {"details": MARK},
    "inbox": {},
    "claim": {"job_id": 7},
    "complete": {"job_id": 7, "result": MARK},
    "upload_artifact": {"data": MARK.encode(), "content_type": "text/plain"},
    "submit_review": {"type": "text", "title": MARK, "content": MARK},
}


@pytest.mark.parametrize("error", [SoftTimeLimitExceeded(), RuntimeError("unforeseen"), ConnectionError("away")])
@pytest.mark.parametrize("method", SDK)
def test_a_request_that_is_interrupted_shows_nothing(
    method: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interrupt comes while the head or the body of the request is in a variable of ``http.client``."""

    def send(connection: Any, data: bytes) -> None:
        raise error

    def connect(connection: Any) -> None:
        connection.sock = Mock()

    monkeypatch.setattr(urllib3.connection.HTTPConnection, "connect", connect)
    monkeypatch.setattr(transport._Connection, "send", send)
    worker = Worker(token=f"token-{MARK}", url="http://server.test", name="w")
    found = error_of(partial(getattr(worker, method), **SDK[method]))
    assert any(module == "http.client" for module, _ in frames_of(found) + frames_of_causes(found))
    assert MARK not in variables_of(found, besides=__file__)


def frames_of_causes(error: BaseException) -> list[tuple[str, str]]:
    """The frames of the exceptions in an exception's context."""
    context = error.__context__
    return [] if context is None else frames_of(context) + frames_of_causes(context)


@pytest.mark.parametrize("call", ["complete", "fail", "escalate"])
def test_a_call_with_a_reference_shows_nothing(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, ref: str, *_: Any) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(Caller, "__init__", broken)
    assert MARK not in variables_of(error_of(getattr(mr_celery, call), MARK, MARK), besides=__file__)


def test_commands_show_nothing() -> None:
    @click.group(cls=Group)
    def group() -> None: ...

    @group.command()
    @click.argument("prompt")
    def command(prompt: str) -> None:
        fails(prompt)

    done = CliRunner().invoke(group, ["command", MARK])
    assert isinstance(done.exception, ValueError)
    error = done.exception
    assert [each for each in with_variables(error) if each.startswith("click")] == []


def test_sentry_gets_the_repr_of_a_job() -> None:
    def handler(job: Job) -> None:
        raise ValueError("no")

    error = error_of(handler, Job({"id": 7, "prompt": MARK}))
    assert MARK not in variables_of(error)
    assert "<Job 7>" in variables_of(error)
