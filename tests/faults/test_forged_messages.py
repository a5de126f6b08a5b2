"""Messages that a third party has written to the broker, in the form of a job's message."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

from celery import Celery

from mr_celery.ledger import Ledger
from mr_celery.message import encoding_for, header
from support.fleet import Fleet
from support.ports import until

INVENTED = 200
"""Number of worker names that are made up."""


def nested(depth: int) -> Any:
    value: Any = 7
    for _ in range(depth):
        value = [value]
    return value


def test_forged_messages_start_nothing_and_stop_nothing(fleet: Fleet, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    worker = fleet.worker("-c", "2", PROJ_GATE=str(gate))
    fleet.bridge()
    job_id = fleet.dispatch("once", "gated")
    until(lambda: fleet.started("once") == 1)
    record = Ledger(fleet.environment["MODELREINS_LEDGER_URL"], "w").read(job_id)
    assert record is not None
    app, ids = Celery("forger", broker=fleet.environment["PROJ_BROKER"], set_as_current=False), count()

    def forge(task: str, headers: dict[str, Any], task_id: str = "", **options: Any) -> None:
        name = f"support.proj.{task}"
        task_id = task_id or f"mr-7-1-{next(ids)}"
        app.send_task(name, task_id=task_id, headers=headers, compression=encoding_for(name), **options)

    own = header("w", job_id)
    for retries in (0, 1, 2, 10**9):
        forge("gated", own, record.task_id, retries=retries)
        forge("upper", own, record.task_id, retries=retries, kwargs={"prompt": "forged"})
    forge("of_no_worker", own, record.task_id)
    forge("upper", own, record.task_id, expires=-1, kwargs={"prompt": "forged"})
    for job in (float("inf"), float("nan"), 10**400, -1, True, "7", None, [], {"a": 1}, nested(200)):
        forge("upper", {"modelreins": {"worker": "w", "job": job}})
        forge("upper", {"modelreins": {"worker": job, "job": 7}})
        forge("upper", {"modelreins": job, "stamps": {"modelreins": job}, "stamped_headers": ["modelreins"]})
    for number in range(INVENTED):
        forge("upper", header(f"invented {number}", 7))
    forge("upper", {"stamps": {"modelreins": f"{record.task_id}@w"}}, "no-member", kwargs={"prompt": "forged"})
    after = fleet.dispatch("after")  # its message comes last
    (ended,) = fleet.ended(after)
    assert ended["result"] == "AFTER"
    worker.says("(128 messages)")
    assert fleet.job(job_id)["status"] == "running"
    gate.touch()
    (ended,) = fleet.ended(job_id)
    assert (ended["status"], ended["result"]) == ("done", "ONCE")
    assert fleet.events(job_id).count("close done") == 1
    assert {line for line in fleet.starts() if line} == {"once", "after"}
    assert fleet.started("once") == 1
    assert worker.output.count("is not configured here") == 8
    assert worker.popen.poll() is None
    assert "Unrecoverable" not in worker.output
