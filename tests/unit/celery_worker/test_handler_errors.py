"""The meaning of an exception that a handler raises."""

from __future__ import annotations

import asyncio
import pickle
from types import FunctionType
from typing import Any

import gevent
import pytest
from billiard import common
from celery.exceptions import WorkerShutdown
from greenlet import GreenletExit

from mr_celery import JobFailed
from mr_celery.celery_worker.handler_errors import (
    HandlerStopped,
    for_celery,
    is_greenlet_exit,
    is_hard_limit,
    raised_by_a_signal,
    traceback_of,
)
from mr_celery.errors import Escalate, as_text


def raised(raising: Any) -> BaseException:
    try:
        raising()
    except BaseException as error:
        return error
    raise AssertionError("it raised nothing")


@pytest.fixture
def signalled(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Billiard's own handler, called as for a signal."""
    monkeypatch.setattr(common, "maybe_setsignal", lambda *_: None)

    def signal(number: int) -> None:
        monkeypatch.setattr(common, "_should_have_exited", [False])
        common._shutdown_cleanup(number, None)

    return signal


@pytest.mark.parametrize(("number", "ends"), [(15, True), (3, True), (14, False), (13, False)])
def test_only_a_signal_that_is_to_end_the_process_does(signalled: Any, number: int, ends: bool) -> None:
    """SIGALRM and SIGPIPE are caused by the handler itself."""
    assert raised_by_a_signal(raised(lambda: signalled(number))) is ends


def test_an_error_in_what_a_signal_interrupts_is_the_signals(signalled: Any) -> None:
    def handler() -> None:
        try:
            signalled(15)
        finally:
            raise ValueError("the connection is closed")

    assert raised_by_a_signal(raised(handler))


@pytest.mark.parametrize("error", [SystemExit(-241), WorkerShutdown(0), KeyboardInterrupt()], ids=repr)
def test_a_handlers_own_is_not(error: BaseException) -> None:
    def handler() -> None:
        raise error

    assert not raised_by_a_signal(raised(handler))


def test_a_worker_that_raises_in_a_handler_ends_it() -> None:
    def raises() -> None:
        raise NotImplementedError

    in_celery = FunctionType(raises.__code__, {"__name__": "celery.apps.worker"})
    assert raised_by_a_signal(raised(in_celery))


def test_circles_of_causes_come_to_an_end() -> None:
    first, second = ValueError(1), ValueError(2)
    first.__cause__, second.__cause__ = second, first
    assert not raised_by_a_signal(first)


def test_what_gevent_raises() -> None:
    assert is_greenlet_exit(GreenletExit())
    assert not is_greenlet_exit(GeneratorExit())
    assert is_hard_limit(gevent.Timeout(3), 3)
    assert not is_hard_limit(gevent.Timeout(3), 4)
    assert not is_hard_limit(gevent.Timeout(3), None)
    assert not is_hard_limit(TimeoutError(3), 3)


class ReprRaises(Exception):
    def __repr__(self) -> str:
        raise KeyboardInterrupt


class ReduceRaises(Exception):
    def __reduce__(self) -> Any:
        raise SystemExit


@pytest.mark.parametrize(
    "error",
    [asyncio.CancelledError(), SystemExit(1), MemoryError(), ReprRaises(), ReduceRaises(), GeneratorExit()],
    ids=lambda error: type(error).__name__,
)
def test_celery_sees_an_ordinary_exception(error: BaseException) -> None:
    shown = for_celery(error)
    assert isinstance(shown, HandlerStopped)
    assert shown.__cause__ is error
    assert type(error).__name__ in str(shown)
    assert str(pickle.loads(pickle.dumps(shown))) == str(shown)


@pytest.mark.parametrize("error", [ValueError("no"), type("Local", (Exception,), {})("it cannot be pickled")], ids=str)
def test_and_an_ordinary_one_as_it_is(error: Exception) -> None:
    assert for_celery(error) is error


def test_an_exception_that_cannot_be_printed_has_a_traceback() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise SystemExit

        @property
        def __notes__(self) -> Any:
            raise KeyboardInterrupt

    assert "Broken" in traceback_of(Broken())


class Unprintable:
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("why", "why"),
        (None, ""),
        (b"caf\xc3\xa9", "café"),
        (ValueError("because"), "because"),
        (ValueError(), "ValueError"),
        ({"a": 1}, "{'a': 1}"),
        (0, "0"),
        (Unprintable(), "(Unprintable: it cannot be printed)"),
    ],
    ids=["text", "nothing", "bytes", "an exception", "a silent exception", "data", "a number", "an unprintable"],
)
def test_anything_may_stand_in_place_of_a_text(given: object, text: str) -> None:
    assert as_text(given) == text
    assert (Escalate(given).why, JobFailed(given).why) == (text, text)
    assert str(Escalate(given)) == text
