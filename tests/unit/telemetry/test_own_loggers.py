"""The loggers of this package: configurations that hide warnings by accident, and those that may hide them."""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery.utils.log import LoggingProxy

import mr_celery
from mr_celery.telemetry import own_loggers
from mr_celery.telemetry.own_loggers import NAMES, OwnLogger, show_warnings, undo_show_warnings

logger = logging.getLogger("mr_celery.worker")


@pytest.fixture
def fallback(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """The fallback's output, captured instead of written to standard error."""
    root, package = logging.getLogger(), logging.getLogger("mr_celery")
    level = root.level
    written = io.StringIO()
    for each in (logger, package):
        each.handlers.clear()  # handlers of commands that other tests have called
    monkeypatch.setattr(sys, "__stderr__", written)
    show_warnings("INFO")
    yield written
    undo_show_warnings()
    root.setLevel(level)
    root.handlers.clear()
    for each in (logger, package):
        each.setLevel(logging.NOTSET)
        each.handlers.clear()
        each.propagate = True


def test_every_logger_of_the_code_is_one_of_them() -> None:
    folder = Path(mr_celery.__file__).parent
    used = {
        name for path in folder.rglob("*.py") for name in re.findall(r'getLogger\("(mr_celery[^"]*)"', path.read_text())
    }
    assert used - {"mr_celery.testing"} == set(NAMES)
    assert all(isinstance(logging.getLogger(name), OwnLogger) for name in NAMES)


def test_a_logger_cannot_be_disabled() -> None:
    logger.disabled = True
    assert not logger.disabled
    assert logger.isEnabledFor(logging.ERROR)


def use_only(handler: logging.Handler) -> None:
    """Replace the handlers of the root logger. pytest removes its own after the test."""
    logging.getLogger().handlers[:] = [handler]


def errors_only() -> None:
    use_only(logging.StreamHandler(io.StringIO()))
    logging.getLogger().setLevel(logging.ERROR)


def handler_at_critical() -> None:
    handler = logging.StreamHandler(io.StringIO())
    handler.setLevel(logging.CRITICAL)
    use_only(handler)


def handler_that_filters() -> None:
    handler = logging.StreamHandler(io.StringIO())
    handler.addFilter(lambda record: False)
    use_only(handler)


def handler_of_nothing() -> None:
    use_only(logging.NullHandler())


def handler_that_logs_again() -> None:
    use_only(logging.StreamHandler(LoggingProxy(logging.getLogger("celery.redirected"))))


HIDING = [handler_at_critical, handler_that_filters, handler_of_nothing, handler_that_logs_again]


@pytest.mark.parametrize("hide", HIDING)
def test_what_no_handler_takes_is_written_by_the_fallback(fallback: io.StringIO, hide: Callable[[], None]) -> None:
    hide()
    logger.warning("seen")
    assert re.fullmatch(r"\[.*: WARNING/MainProcess\] seen\n", fallback.getvalue())


def test_a_level_of_the_root_logger_hides_no_warning(fallback: io.StringIO) -> None:
    errors_only()
    logger.warning("seen by the application's handler")
    logger.info("not seen")
    (handler,) = logging.getLogger().handlers
    assert handler.stream.getvalue() == "seen by the application's handler\n"  # type: ignore[attr-defined]
    assert fallback.getvalue() == ""


@pytest.mark.parametrize("hide", [*HIDING, errors_only])
@pytest.mark.parametrize("name", ["mr_celery", "mr_celery.worker"])
def test_what_is_set_for_the_package_applies(fallback: io.StringIO, hide: Callable[[], None], name: str) -> None:
    hide()
    chosen = logging.getLogger(name)
    chosen.addHandler(logging.NullHandler())
    chosen.setLevel(logging.ERROR)
    logger.warning("not seen")
    assert fallback.getvalue() == ""
    assert not logger.isEnabledFor(logging.WARNING)


def test_the_commands_level_applies(fallback: io.StringIO) -> None:
    handler_of_nothing()
    show_warnings("ERROR")
    logger.warning("not asked for")
    logger.error("asked for")
    assert "not asked for" not in fallback.getvalue()
    assert "ERROR/MainProcess] asked for" in fallback.getvalue()


def test_other_processes_are_left_alone(fallback: io.StringIO) -> None:
    undo_show_warnings()
    errors_only()
    logger.warning("not seen")
    handler_of_nothing()
    assert not logger.isEnabledFor(logging.WARNING)
    assert fallback.getvalue() == ""


def test_a_logger_that_exists_keeps_its_class() -> None:
    class Coloured(logging.Logger):
        def colour(self) -> str:
            return "red"

    name = "mr_celery.worker"
    before = logger.__class__
    try:
        logger.__class__ = Coloured
        own_loggers.make_own()
        assert isinstance(logging.getLogger(name), OwnLogger)
        assert logging.getLogger(name).colour() == "red"  # type: ignore[attr-defined]
    finally:
        logger.__class__ = before
