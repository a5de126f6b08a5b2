"""The log of a job: one line per event with fields, as text and as JSON."""

from __future__ import annotations

import io
import json
import logging
import pickle
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from celery import Celery
from celery.utils.log import ColorFormatter

from mr_celery.telemetry.json_format import JsonLines, json_wanted, write_json
from mr_celery.telemetry.logs import JobLog, attempt_of, unexpected
from mr_celery.telemetry.redaction import redacted, stack

logger = logging.getLogger("mr_celery.testing")


@pytest.fixture(autouse=True)
def everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


@pytest.fixture
def log() -> JobLog:
    return JobLog(logger, 42, worker_name="studio", task_id="mr-42-3-ab3d", task_name="proj.draw")


def raised(prompt: str) -> Exception:
    """An exception with a cause, as a handler raises it."""
    try:
        try:
            raise KeyError(prompt)
        except KeyError as error:
            raise ValueError(f"cannot draw {prompt}") from error
    except ValueError as error:
        return error


class TestLine:
    def test_has_job_attempt_and_task(self, log: JobLog, caplog: pytest.LogCaptureFixture) -> None:
        log.info("started")
        assert caplog.messages == ["job=42 attempt=3 task_id=mr-42-3-ab3d started"]

    def test_omits_unknown_fields(self, caplog: pytest.LogCaptureFixture) -> None:
        JobLog(logger, 42).info("claim_unclear", "not claimed: 100 % unclear")
        assert caplog.messages == ["job=42 not claimed: 100 % unclear"]

    def test_has_the_same_values_as_fields(self, log: JobLog, caplog: pytest.LogCaptureFixture) -> None:
        log.info("finished", "done after 3.214 s", status="done", seconds=3.214, reason=None)
        fields = vars(caplog.records[0])
        assert {
            "event": "finished",
            "job": 42,
            "attempt": 3,
            "task_id": "mr-42-3-ab3d",
            "task_name": "proj.draw",
            "worker_name": "studio",
            "status": "done",
            "seconds": 3.214,
        }.items() <= fields.items()
        assert "reason" not in fields

    def test_has_the_callers_position(self, log: JobLog, caplog: pytest.LogCaptureFixture) -> None:
        log.warning("lost")
        unexpected(logger, "oh", ValueError())
        assert {record.funcName for record in caplog.records} == {"test_has_the_callers_position"}

    @pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
    def test_has_its_level(self, log: JobLog, caplog: pytest.LogCaptureFixture, level: str) -> None:
        getattr(log, level)("event")
        assert caplog.records[0].levelname == level.upper()

    def test_has_the_stack_of_an_error_without_its_message(self, log: JobLog, caplog: pytest.LogCaptureFixture) -> None:
        log.error("oh", error=raised("hush-hush"))
        unexpected(logger, "oh", raised("hush-hush"))
        assert caplog.text.count("ValueError: redacted") == 2
        assert caplog.text.count("KeyError: redacted") == 2
        assert "in raised" in caplog.text
        assert "hush-hush" not in caplog.text


@pytest.mark.parametrize(
    ("task_id", "attempt"), [("mr-42-3-ab3d", 3), ("mr-42-10-ab", 10), ("", None), ("4f6b1f3e-3c", None)]
)
def test_attempt_of_task_id(task_id: str, attempt: int | None) -> None:
    assert attempt_of(task_id) == attempt


class TestRedaction:
    def test_keeps_class_stack_and_causes(self) -> None:
        text = stack(raised("hush-hush"))
        assert "hush-hush" not in text
        assert 'raise ValueError(f"cannot draw {prompt}") from error\nValueError: redacted' in text
        assert "KeyError: redacted" in text
        assert "direct cause" in text

    def test_keeps_the_class_name_when_pickled(self) -> None:
        stand_in = redacted(ValueError("hush-hush"), "look there")
        again = pickle.loads(pickle.dumps(stand_in))
        for each in (stand_in, again):
            assert repr(each) == "ValueError('look there')"
            assert type(each).__module__ == "builtins"

    def test_ends_if_causes_form_a_cycle(self) -> None:
        one, two = ValueError("hush-hush"), KeyError("hush-hush")
        one.__context__, two.__context__ = two, one
        assert "hush-hush" not in stack(one)

    def test_drops_notes(self) -> None:
        error = ValueError("hush-hush")
        error.__notes__ = ["hush-hush"]  # type: ignore[attr-defined]
        assert "hush-hush" not in stack(error)


class Awkward:
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """The output of a handler with :class:`JsonLines`."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonLines())
    logger.addHandler(handler)
    yield written
    logger.removeHandler(handler)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in stream.getvalue().splitlines()]


class TestJson:
    def test_is_one_object_per_event(self, log: JobLog, stream: io.StringIO) -> None:
        log.info("started")
        log.warning("put_off", "not delivered:\nnext try in 2.0 s", seconds=2.0)
        first, second = lines(stream)
        assert datetime.fromisoformat(first.pop("timestamp")).utcoffset() == timedelta(0)
        assert first == {
            "level": "INFO",
            "logger": "mr_celery.testing",
            "message": "job=42 attempt=3 task_id=mr-42-3-ab3d started",
            "event": "started",
            "job": 42,
            "attempt": 3,
            "task_id": "mr-42-3-ab3d",
            "task_name": "proj.draw",
            "worker_name": "studio",
        }
        assert second["seconds"] == 2.0
        assert second["message"].endswith("not delivered:\nnext try in 2.0 s")

    def test_has_the_exception_in_the_same_line(self, log: JobLog, stream: io.StringIO) -> None:
        log.error("oh", error=raised("hush-hush"))
        (line,) = lines(stream)
        assert line["exception"].endswith("ValueError: redacted")

    def test_writes_other_types_as_text(self, stream: io.StringIO) -> None:
        circle: list[Any] = []
        circle.append(circle)
        odd = [object(), {1, 2}, b"\xff", float("nan"), float("inf"), circle, {(1, 2): 3}, Awkward(), "\ud800"]
        for each in odd:
            logger.info("odd", extra={"odd": each})
        assert [line["message"] for line in lines(stream)] == ["odd"] * len(odd)

    def test_has_id_and_name_of_celerys_task(self) -> None:
        record = logging.makeLogRecord(
            {"name": "celery.app.trace", "msg": "x", "data": {"id": "1", "name": "proj.draw", "args": "('secret',)"}}
        )
        line = json.loads(JsonLines().format(record))
        assert (line["task_id"], line["task_name"]) == ("1", "proj.draw")
        assert "hush-hush" not in str(line)

    def test_does_not_change_other_handlers(self) -> None:
        root = logging.getLogger()
        celerys, own = logging.StreamHandler(), logging.StreamHandler()
        celerys.setFormatter(ColorFormatter())
        own.setFormatter(formatter := logging.Formatter())
        for handler in (celerys, own):
            root.addHandler(handler)
        try:
            write_json()
        finally:
            for handler in (celerys, own):
                root.removeHandler(handler)
        assert isinstance(celerys.formatter, JsonLines)
        assert own.formatter is formatter

    @pytest.mark.parametrize(("value", "wanted"), [("json", True), ("JSON", True), ("text", False), ("xml", False)])
    def test_is_enabled_by_the_setting(self, monkeypatch: pytest.MonkeyPatch, value: str, *, wanted: bool) -> None:
        monkeypatch.delenv("MODELREINS_LOG_FORMAT", raising=False)
        with Celery(set_as_current=False) as app:
            assert not json_wanted(app.conf)
            app.conf.modelreins_log_format = value
            assert json_wanted(app.conf) is wanted
