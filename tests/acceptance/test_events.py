"""Celery's events, which Flower and exporters use: they identify the job of a task, and contain none of its content."""

from __future__ import annotations

import json

from mr_celery.ledger import Ledger
from support.fleet import Fleet
from support.ports import until
from support.recorder import Recorder

MARK = "marked-prompt-5d2e"


RECEIVED_TWICE = ["received", "started", "received", "retried", "started", "succeeded"]
LIVES = {
    None: ["received", "started", "succeeded"],
    "json": ["received", "started", "succeeded"],
    "image": ["received", "started", "succeeded"],
    "large": ["received", "started", "succeeded"],
    "escalate": ["received", "started", "succeeded"],
    "own-retry": RECEIVED_TWICE,
    "hand-on": RECEIVED_TWICE,
    "class": RECEIVED_TWICE,
    "raise": ["received", "started", "failed"],
}
"""The events of a job by the capability that it asks for."""

NAMES = {"image": "support.proj.image", "class": "proj.counting", None: "support.proj.upper"}


def test_events_name_the_job_of_a_task_without_its_content(fleet: Fleet, recorder: Recorder) -> None:
    fleet.environment["PROJ_CONF"] = json.dumps({"task_send_sent_event": True})
    fleet.worker("-c", "4", "-E")
    fleet.bridge()
    ids = {kind: fleet.dispatch(f"{MARK} {kind}", kind) for kind in LIVES}
    fleet.ended(*ids.values())
    ledger = Ledger(fleet.environment["MODELREINS_LEDGER_URL"], fleet.name)
    for kind, life in LIVES.items():
        job_id = ids[kind]
        # A retry's event and those of the message that it publishes come from different connections, in any order.
        until(
            lambda job_id=job_id, life=life: sorted(recorder.kinds(job_id)) == sorted(life),
            what=f"events of {kind}: {life}",
        )
        events = recorder.of_job(job_id)
        record = ledger.read(job_id)
        assert record is not None
        assert {event["uuid"] for event in events} == {record.task_id}
        assert "task-sent" in [event["type"] for event in events]
        for event in events:
            if "args" in event:
                assert (event["args"], event["kwargs"]) == (f"(ModelReins job {job_id})", "{}")
                assert event["name"] == NAMES.get(kind, event["name"])
            if event["type"] == "task-succeeded":
                status = "escalated" if kind == "escalate" else "done"
                assert event["result"] == f"'{status}'"
            assert MARK not in json.dumps(event).lower()


def test_an_aborted_job_is_a_revoked_task(fleet: Fleet, recorder: Recorder) -> None:
    fleet.worker("-c", "2", "-E")
    fleet.bridge()
    job_id = fleet.dispatch(MARK, "hang")
    until(lambda: fleet.started(MARK) == 1, what="the run")
    fleet.sandbox.store.abort(job_id)
    until(lambda: recorder.kinds(job_id)[-1:] == ["revoked"], what="the abort")
    assert recorder.kinds(job_id) == ["received", "started", "revoked"]
    assert MARK not in json.dumps(recorder.of_job(job_id))
