"""Warnings of a bridge and of a worker are visible, however the application sets up logging."""

from __future__ import annotations

import pytest

from support.fleet import Fleet

WAYS = [
    "before the import",
    "after the import",
    "setup_logging",
    "setup_logging, JSON",
    "setup_logging, root at ERROR",
    "setup_logging, handler at ERROR",
    "setup_logging, no handler",
    "setup_logging, handler that writes nothing",
    "setup_logging, a handler that filters",
    "after_setup_logger",
    "root not hijacked",
    "in a task and in match=",
]


@pytest.fixture
def started(fleet: Fleet) -> Fleet:
    fleet.app = "support.proj_logging"
    return fleet


@pytest.mark.parametrize("way", WAYS)
def test_each_warning_is_seen_once(started: Fleet, way: str) -> None:
    started.environment["PROJ_LOGGING"] = way
    worker, bridge = started.worker(ready=False), started.bridge(ready=False)
    unknown = started.dispatch("x", "unknown")
    meant = started.dispatch("x", "meant")
    limit = started.dispatch("x", "limit")
    started.ended(unknown, meant, limit)
    for process, job_id, text in (
        (bridge, unknown, "no handler takes"),
        (worker, meant, "JobFailed; output: "),
        (worker, limit, "the task's hard time limit of 1 s ended the run"),
    ):
        process.says(text)
        lines = [line for line in process.output.splitlines() if f"job={job_id} " in line and text in line]
        assert len(lines) == 1, process.output


def test_they_are_in_the_log_file_of_the_command(started: Fleet) -> None:
    started.environment["PROJ_LOGGING"] = "setup_logging, handler at ERROR"
    worker = started.worker("-c", "1", "--logfile", str(started.folder / "%n.log"), ready=False)
    started.bridge("--logfile", str(started.folder / "bridge.log"), ready=False)
    started.ended(started.dispatch("x", "unknown"), started.dispatch("x", "meant"))
    name = worker.log.stem.replace("worker-", "w")
    assert "no handler takes" in (started.folder / "bridge.log").read_text()
    assert "JobFailed; output: " in (started.folder / f"{name}.log").read_text()


def test_what_is_set_for_the_loggers_of_this_package_applies(started: Fleet) -> None:
    """``--loglevel ERROR`` hides warnings, and so does a level for ``mr_celery``."""
    started.environment["PROJ_LOGGING"] = "none"
    worker = started.worker("-l", "ERROR", "-c", "1", ready=False)
    started.bridge("-l", "ERROR", ready=False)
    started.ended(started.dispatch("x", "unknown"), started.dispatch("x", "meant"))
    assert worker.terminate() == 0
    for process in started.processes:
        assert "job=" not in process.output
