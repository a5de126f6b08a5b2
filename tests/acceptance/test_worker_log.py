"""The log of a worker: one line for an intended failure, and three lines for a job."""

from __future__ import annotations

import json
import re

import pytest
from celery import Celery

from mr_celery.ledger import Ledger
from support.fleet import Fleet, Process
from support.ports import until
from support.recorder import Recorder
from support.servers import RedisServer

PROMPT = "marked-prompt-81fe"

MEANT = {
    "meant": "JobFailed",
    "meant.own": "OutOfPaint",
    "meant.retry": "JobFailed",
    "meant.autoretry": "JobFailed",
    "field": "JobError: no field 'size'",
}
"""The reason of each capability's failure."""


@pytest.fixture
def failing(redis_server: RedisServer, fleet: Fleet) -> Fleet:
    fleet.app = "support.proj_failing"
    fleet.environment["PROJ_CONF"] = json.dumps(
        {"result_backend": redis_server.url(2), "task_store_errors_even_if_ignored": True}
    )
    return fleet


def lines_of(process: Process, job_id: int, text: str = "") -> list[str]:
    """The lines about a job that contain a text."""
    return [line for line in process.output.splitlines() if f"job={job_id} " in line and text in line]


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_failure_that_the_handler_meant_is_one_line(
    failing: Fleet, redis_server: RedisServer, recorder: Recorder, pool: str
) -> None:
    fleet = failing
    worker = fleet.worker("-P", pool, "-c", "2", "-E")
    fleet.bridge()
    ids = {kind: fleet.dispatch(PROMPT, kind) for kind in (*MEANT, "escalate")}
    jobs = dict(zip(ids, fleet.ended(*ids.values()), strict=True))
    assert {kind: job["status"] for kind, job in jobs.items()} == {
        **dict.fromkeys(MEANT, "failed"),
        "escalate": "escalated",
    }
    until(lambda: sum(event["type"] == "task-failed" for event in recorder.events) == len(MEANT), what="the events")
    mistake = fleet.dispatch(PROMPT, "mistake")
    fleet.ended(mistake)
    until(lambda: "raised unexpected" in worker.output, what="the failure by mistake, as Celery logs it")
    worker.terminate()

    for kind, reason in MEANT.items():
        (line,) = lines_of(worker, ids[kind], "failed after")
        where = f"{fleet.sandbox.url}/jobs/{ids[kind]}"
        assert re.search(rf"WARNING.* failed after [\d.]+ m?s: {reason}; output: {where}$", line), line
    (line,) = lines_of(worker, ids["escalate"], "escalated after")
    assert "INFO" in line
    # The only error, and the only traceback, is from the handler that fails by mistake.
    assert worker.output.count("ERROR") == 1
    assert worker.output.count("Traceback") == 1
    assert lines_of(worker, mistake, f"ValueError; output: {fleet.sandbox.url}/jobs/{mistake}")
    assert PROMPT not in worker.output

    ledger = Ledger(fleet.environment["MODELREINS_LEDGER_URL"], fleet.name)
    with Celery("reader", backend=redis_server.url(2), set_as_current=False) as app:
        for kind in MEANT:
            record = ledger.read(ids[kind])
            assert record is not None
            # Celery publishes a retry before it stores the state of the first execution: another child may be faster.
            states = ("FAILURE", "RETRY") if "retry" in kind and pool != "solo" else ("FAILURE",)
            assert app.AsyncResult(record.task_id).state in states


def test_a_job_has_three_lines_at_level_info(fleet: Fleet) -> None:
    worker, bridge = fleet.worker(), fleet.bridge()
    job_id = fleet.dispatch(PROMPT)
    fleet.ended(job_id)
    worker.says("delivered as done")
    found = [
        line.partition("task_id=")[2].partition(" ")[2] for line in lines_of(bridge, job_id) + lines_of(worker, job_id)
    ]
    sent, done, delivered = found
    assert sent.startswith("sent to queue ")
    assert re.fullmatch(r"done after [\d.]+ m?s", done)
    assert re.fullmatch(r"delivered as done in [\d.]+ m?s", delivered)


def test_outputs_are_logged_if_the_setting_asks_for_it(failing: Fleet) -> None:
    worker, quiet = failing.worker(MODELREINS_SHOW_OUTPUT="1"), failing.dispatch("x", "fine")
    failing.bridge()
    failing.ended(quiet, failing.dispatch(PROMPT, "fine"), failing.dispatch(PROMPT, "mistake"))
    worker.says(f"output:\n    {PROMPT.upper()}\n")
    worker.says(f"ValueError: cannot draw {PROMPT}")


def test_outputs_are_never_logged_for_a_server_elsewhere(failing: Fleet) -> None:
    changes = {"MODELREINS_SHOW_OUTPUT": "1", "MODELREINS_URL": "https://modelreins.invalid"}
    worker = failing.worker(**changes)
    bridge = failing.bridge(ready=False, **changes)
    for process in (worker, bridge):
        process.says("modelreins_show_output is on, and has no effect: the server https://modelreins.invalid is not on")
