"""The log lines of jobs whose run was lost, or whose message no worker started."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from mr_celery.failure_texts import log_lost, log_not_started
from mr_celery.telemetry.logs import JobLog


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> JobLog:
    caplog.set_level(logging.DEBUG, "mr_celery")
    return JobLog(logging.getLogger("mr_celery.test"), 42, worker_name="studio", task_id="mr-42-1-ab3d")


@pytest.mark.parametrize(
    ("loss", "level", "event"), [("again", "WARNING", "lost"), ("failed", "ERROR", "failed"), ("kept", None, None)]
)
def test_lost_run_is_logged_once(
    log: JobLog, caplog: pytest.LogCaptureFixture, loss: str, level: str | None, event: str | None
) -> None:
    log_lost(replace(log, output="http://server.test/jobs/42"), loss, "silence")
    assert [each.endswith("; output: http://server.test/jobs/42") for each in caplog.messages] == (
        [level == "ERROR"] if level else []
    )
    assert [(each.levelname, vars(each)["event"]) for each in caplog.records] == ([(level, event)] if level else [])


@pytest.mark.parametrize(
    ("loss", "level", "event"),
    [("again", "WARNING", "not_started"), ("failed", "ERROR", "failed"), ("kept", None, None)],
)
def test_task_that_was_not_started_is_logged_once(
    log: JobLog, caplog: pytest.LogCaptureFixture, loss: str, level: str | None, event: str | None
) -> None:
    log_not_started(replace(log, output="http://server.test/jobs/42"), loss, "silence", seconds=12.0)
    assert [each.endswith("; output: http://server.test/jobs/42") for each in caplog.messages] == (
        [level == "ERROR"] if level else []
    )
    assert [(each.levelname, vars(each)["event"]) for each in caplog.records] == ([(level, event)] if level else [])
