"""Error trackers and diagnostic tools send no token, and from the frames of mr-celery no prompt, result or file."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mr_celery.sandbox import Rule, Sandbox
from support import fork_server
from support.fleet import BIN, Fleet
from support.servers import RedisServer

PROMPT, RESULT, FILE = "MarkedPrompt6b0e", "MarkedResult41fa", "MarkedFile9d27"
PASSWORD = "MarkedPassword83c5"

ENDINGS: dict[str, tuple[str, str, str]] = {
    # name: the capability, the words that cause a fault, and the job's status
    "done": ("done", "", "done"),
    "failed": ("raise", "", "failed"),
    "JobFailed": ("fail", "", "failed"),
    "escalated": ("escalate", "", "escalated"),
    "deferred": ("defer", "", "failed"),
    "retried": ("retry", "", "failed"),
    "retried by Celery": ("autoretry", "", "failed"),
    "member fails": ("workflow", "", "failed"),
    "process dies": ("die", "", "failed"),
    "soft limit in a handler's upload": ("upload", "HANG-WORKER", "failed"),
    "hard limit in a handler's upload": ("upload-hard", "HANG-WORKER", "failed"),
    "soft limit in a handler's review": ("review", "HANG-WORKER", "failed"),
    "soft limit in a large artifact": ("large", "HANG-WORKER", "failed"),
    "soft limit in the delivery's upload": ("file", "HANG-WORKER", "done"),
    "soft limit in the close": ("plain", "HANG-WORKER", "done"),
    "hard limit in the close": ("plain-hard", "HANG-WORKER", "done"),
    "fault in a handler's upload": ("upload", "BREAK-WORKER", "failed"),
    "fault in a coroutine's upload": ("async", "BREAK-WORKER", "failed"),
    "fault in the delivery": ("done", "BREAK-WORKER", "done"),
    "fault in the bridge's delivery": ("plain", "HANG-WORKER BREAK-BRIDGE", "done"),
    "fault in the worker's ledger": ("plain", "BREAK-LEDGER-OF-WORKER", "done"),
    "fault in the bridge's ledger": ("plain", "BREAK-LEDGER-OF-BRIDGE", "done"),
    "arguments= raises": ("arguments", "", "failed"),
    "result= raises": ("result", "", "failed"),
    "no result": ("no-result", "", "failed"),
    "hook raises": ("hook", "", "done"),
}


class Tracked(Fleet):
    """A fleet with Sentry, whose items are written to a file."""

    def __init__(self, sandbox: Sandbox, redis: RedisServer, folder: Path) -> None:
        app = "support.proj_tracked"
        super().__init__(sandbox, broker=redis.url(0), ledger=redis.url(1), folder=folder, app=app)
        self.sentry_file, self.spans_file = folder / "sentry", folder / "spans"
        self.environment |= {
            "PROJ_SENTRY": str(self.sentry_file),
            "PROJ_SPANS": str(self.spans_file),
            "PROJ_CONF": json.dumps(
                {"modelreins_ledger_url": f"redis://:{PASSWORD}@127.0.0.1:1/0", "modelreins_token": sandbox.token}
            ),
        }

    def items(self, kind: str) -> list[dict[str, Any]]:
        """Sentry's items of a type; type ``locals`` holds the tracebacks with variables."""
        lines = self.sentry_file.read_text().split("\n")[:-1] if self.sentry_file.exists() else []
        return [item for line in lines if (item := json.loads(line))["type"] == kind]

    def command(self, *arguments: str) -> str:
        """The output of one of Celery's commands."""
        whole = [str(BIN / "celery"), "-A", self.app, *arguments]
        ended = fork_server.run(whole, env=self.environment, timeout=60)
        return ended.stdout + ended.stderr


@pytest.fixture
def tracked(sandbox: Sandbox, redis_server: RedisServer, tmp_path: Path) -> Iterator[Tracked]:
    fleet = Tracked(sandbox, redis_server, tmp_path)
    yield fleet
    fleet.stop()


def without_own_variables(value: Any) -> Any:
    """An item of Sentry without the variables of the application's frames."""
    if isinstance(value, list):
        return [without_own_variables(each) for each in value]
    if not isinstance(value, dict):
        return value
    module = str(value.get("module"))
    own = "vars" in value and module.startswith("support.") and not value["function"].endswith("_or_fail")
    return {key: without_own_variables(each) for key, each in value.items() if not (own and key == "vars")}


def found(text: str, marks: dict[str, str]) -> list[str]:
    """The marks in a text, each with the surrounding text."""
    return [
        f"{name}: …{text[max(0, match.start() - 200) : match.end() + 60]}…"
        for name, mark in marks.items()
        for match in list(re.finditer(re.escape(mark), text))[:1]
    ]


def leaks(fleet: Tracked, marks: dict[str, str]) -> list[str]:
    """The marks in Sentry's items: the token anywhere, other marks outside the application's own frames."""
    listed: list[str] = []
    for item in (*fleet.items("event"), *fleet.items("transaction")):
        types = [each["type"] for each in item.get("exception", {}).get("values", [])]
        title = f"{item['role']} {item['type']} {item.get('logger')} {types}"
        listed += [f"{title} {each}" for each in found(json.dumps(item), {"token": marks["token"]})]
        listed += [f"{title} {each}" for each in found(json.dumps(without_own_variables(item)), marks)]
    for item in fleet.items("locals"):
        for file, function, variables in item["frames"]:
            own = "/support/proj_" in file and not function.endswith("_or_fail")
            for each in found(json.dumps(variables), {"token": marks["token"]} if own else marks):
                listed.append(f"{item['role']} {file} {function} {each}")
    return listed


@pytest.mark.timeout(300)
def test_no_ending_of_a_job_tells_an_error_tracker_more(tracked: Tracked) -> None:
    fleet = tracked
    fleet.bridge()
    worker = fleet.worker("-c", "4", "-E")
    ids = {name: fleet.dispatch(PROMPT, capability, words=words) for name, (capability, words, _) in ENDINGS.items()}
    waiting = fleet.dispatch(PROMPT, "wait", words="")
    jobs = dict(zip(ids, fleet.ended(*ids.values(), seconds=200), strict=True))
    assert {name: job["status"] for name, job in jobs.items()} == {name: end for name, (_, _, end) in ENDINGS.items()}
    for capability, route in (("plain", "close"), ("filed", "review")):
        fleet.sandbox.chaos.set([Rule("status", status=413, routes=(route,), times=1)])
        refused = fleet.dispatch(PROMPT, capability, words="")
        assert fleet.ended(refused)[0]["status"] == "failed"
    fleet.sandbox.chaos.set([])
    asked = [fleet.command("inspect", each, "-j") for each in ("active", "reserved", "conf")]
    assert f"mr-{waiting}-1" in asked[0]
    fleet.sandbox.store.abort(waiting)
    worker.says("interrupted: it was aborted")
    for process in reversed(fleet.processes):
        process.signal(signal.SIGABRT)  # it prints the stacks of its threads
        process.says("Fatal Python error: Aborted")

    events = fleet.items("event")
    assert {"bridge", "worker"} == {event["role"] for event in events}
    types = {each["type"] for event in events for each in event.get("exception", {}).get("values", [])}
    assert {"ValueError", "JobFailed", "SoftTimeLimitExceeded", "RuntimeError", "OSError"} <= types
    assert len([event for event in events if event.get("extra", {}).get("event") == "refused"]) == 2
    shown = [frame for item in fleet.items("locals") for frame in item["frames"] if frame[1] == "raises"]
    assert PROMPT in str(shown)  # the application's own variables are still reported
    marks = {"token": fleet.sandbox.token, "prompt": PROMPT, "result": RESULT, "file": FILE, "password": PASSWORD}
    listed = leaks(fleet, marks)
    assert not listed, f"{len(listed)} leaks\n" + "\n\n".join(listed[:30])
    for where, text in (
        ("spans", fleet.spans_file.read_text()),
        ("inspect", "".join(asked)),
        ("report", fleet.command("report")),
        *((each.log.name, each.output) for each in fleet.processes),
    ):
        assert found(text, marks) == [], where
