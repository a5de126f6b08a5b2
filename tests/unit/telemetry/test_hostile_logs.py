"""Foreign texts in the log forge no line and write no control characters, in any format."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest

from mr_celery.failure_texts import log_lost, log_not_started
from mr_celery.telemetry.json_format import JsonLines
from mr_celery.telemetry.logs import JobLog, unexpected
from mr_celery.telemetry.outages import LEAST_SECONDS, Outage
from support.hostile import EVERYTHING, TEXTS, forged, unsafe

logger = logging.getLogger("mr_celery.runner")


def written_by(formatter: logging.Formatter) -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(level)
    logger.propagate = propagate


@pytest.fixture
def text() -> Iterator[io.StringIO]:
    """The lines of an application whose format has fields of the record."""
    fields = {"reason": "", "task_name": ""}
    yield from written_by(logging.Formatter("%(levelname)s %(message)s %(reason)s %(task_name)s", defaults=fields))


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    yield from written_by(JsonLines())


class Foreign:
    """A value whose text is foreign."""

    def __init__(self, words: str) -> None:
        self.words = words

    def __str__(self) -> str:
        return self.words


def job_log(words: str) -> JobLog:
    return JobLog(logger, 42, worker_name=words, task_id="mr-42-1-ab", task_name=words, output=words)


def raised(words: str) -> Exception:
    """An error with a foreign name and a foreign message."""
    error: Exception = type(
        words.encode(errors="ignore").decode().replace("\0", ""), (Exception,), {"__module__": "begin"}
    )(words)
    return error


def outage(words: str) -> None:
    times = iter([0.0, LEAST_SECONDS, LEAST_SECONDS + 1])
    server = Outage(words, words, logger, clock=lambda: next(times))
    server.failed(words)
    server.failed(words)
    server.works()


CALLS: dict[str, Callable[[str], object]] = {
    "info": lambda words: job_log(words).info("event", words, reason=words, queue=words),
    "failed": lambda words: job_log(words).failed(words, why=words),
    "output": lambda words: job_log(words).show_output(words),
    "lost": lambda words: log_lost(job_log(words), "again", words),
    "not started": lambda words: log_not_started(job_log(words), "failed", words),
    "an argument": lambda words: logger.warning("%s: %r", words, words),
    "an object": lambda words: logger.warning("%s: %s", Foreign(words), ValueError(words)),
    "a field": lambda words: logger.warning("fine", extra={"reason": words}),
    "outage": outage,
    "unexpected": lambda words: unexpected(logger, words, ValueError(words)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_line_of_text_stays_one_line(text: io.StringIO, call: Callable[[str], object]) -> None:
    for words in (*TEXTS, EVERYTHING):
        call(words)
    assert "begin" in text.getvalue() or "fine" in text.getvalue()
    assert unsafe(text.getvalue(), kept="\n\t") == []
    assert forged(text.getvalue()) == []


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_line_of_json_stays_one_line(lines: io.StringIO, call: Callable[[str], object]) -> None:
    for words in (*TEXTS, EVERYTHING):
        call(words)
    assert lines.getvalue().isascii()
    assert unsafe(lines.getvalue()) == []
    for line in lines.getvalue().splitlines():
        assert isinstance(json.loads(line), dict)


def test_json_escapes_the_words_of_other_loggers() -> None:
    line = JsonLines().format(logging.makeLogRecord({"name": "celery.worker", "msg": EVERYTHING, "reason": EVERYTHING}))
    assert line.isascii()
    assert unsafe(line, kept="") == []
    assert json.loads(line)["message"] == EVERYTHING


def test_the_name_of_an_error_class_cannot_forge_a_line(text: io.StringIO) -> None:
    unexpected(logger, "oh", raised(EVERYTHING))
    assert unsafe(text.getvalue(), kept="\n\t") == []
    assert forged(text.getvalue()) == []


def test_a_value_in_a_line_is_bounded(text: io.StringIO) -> None:
    job_log("w").info("event", "x" * 10**6, reason="y" * 10**6)
    assert len(text.getvalue()) < 10_000


def test_numbers_keep_their_types(text: io.StringIO) -> None:
    logger.info("%d of %.1f", 1, 2.0, extra={"reason": 3})
    assert text.getvalue() == "INFO 1 of 2.0 3 \n"
