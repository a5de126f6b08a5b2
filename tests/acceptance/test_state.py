"""Operators get correct information: status, probes, metrics, presence and log agree in each state."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from mr_celery.sandbox import Sandbox
from support import fork_server
from support.fleet import BIN, Fleet, Process
from support.ports import free_port, until
from support.servers import RedisServer

OUTAGE_SECONDS = 20.0
TRIAGE = "support.proj_few.triage"


class Operator:
    """Inspects an installation in all the ways available to an operator.

    Args:
        fleet: the installation.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.http = f"127.0.0.1:{free_port()}"
        fleet.environment["MODELREINS_HTTP"] = self.http

    def command(self, *arguments: str, code: int | None = 0) -> str:
        whole = [str(BIN / "celery"), "-A", self.fleet.app, "modelreins", *arguments]
        done = fork_server.run(whole, env=self.fleet.environment, timeout=90)
        assert code is None or done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    @property
    def status(self) -> dict[str, Any]:
        """The status as JSON; only its state if the ledger is unreachable."""
        text = self.command("status", "--json", code=None)
        if text.startswith("{"):
            found: dict[str, Any] = json.loads(text)
            return found
        return {"state": {"kind": "ledger_unreachable" if "the ledger at" in text else text}}

    @property
    def ready(self) -> tuple[bool, str]:
        """Whether the bridge is ready, and its state."""
        answer = requests.get(f"http://{self.http}/health/ready", timeout=10)
        body = answer.json()
        assert body["ok"] == (answer.status_code == 200)
        return body["ok"], body["states"][self.fleet.name]["kind"]

    def samples(self, name: str, label: str) -> dict[str, float]:
        """The samples of a metric by a label."""
        text = requests.get(f"http://{self.http}/metrics", timeout=30).text
        return {
            sample.labels[label]: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        }

    @property
    def measured(self) -> list[str]:
        """The state in the metrics."""
        return [state for state, value in self.samples("modelreins_state", "state").items() if value]

    @property
    def presence(self) -> tuple[str, str]:
        """The status and the details of the presence on the server."""
        (worker,) = self.fleet.sandbox.store.workers()
        return str(worker["status"]), str(worker["details"])

    def sees(self, kind: str, *, ready: bool, details: str | None = None, seconds: float = 30.0) -> dict[str, Any]:
        """Wait for a state, check that all views agree, and return the status."""
        until(lambda: self.ready == (ready, kind), seconds=seconds, what=f"the probe says {kind}, not {self.ready}")
        until(lambda: self.status["state"]["kind"] == kind, seconds=20, what=f"the status says {kind}")
        assert self.measured == [kind]
        if details is not None:
            until(lambda: details in self.presence[1], seconds=20, what=f"presence says {details!r}: {self.presence}")
        return self.status


@pytest.fixture
def operator(fleet: Fleet) -> Operator:
    fleet.app = "support.proj_few"
    return Operator(fleet)


@pytest.mark.long
def test_why_a_job_waits_until_a_worker_can_run_it(fleet: Fleet, operator: Operator) -> None:
    assert operator.status["state"]["kind"] == "no_bridge"
    assert "no bridge online" in operator.command("status", "--check", code=1)

    bridge = fleet.bridge()
    job_id = fleet.dispatch("hello", "email.triage")
    status = operator.sees("no_worker", ready=True, details="no worker online")
    assert operator.presence[0] == "busy"
    assert status["state"]["wrong"]
    assert status["state"]["what_to_do"].startswith("start one: celery -A proj worker")
    until(lambda: operator.status["pending"] == 1, what="the pending job is counted")
    bridge.says("1 job waits: no worker is online")
    assert "1 job waits: no worker is online" in operator.command("status")
    assert operator.samples("modelreins_waiting_jobs", "reason")["no_worker"] == 1

    bare = fleet.worker("-c", "1", app="support.proj_bare")
    text = "none of the tasks: is support.proj_few imported there?"
    assert text in operator.sees("no_worker", ready=True, details=text)["state"]["text"]
    bridge.says(f"1 job waits for {TRIAGE}: w1@test is online, but has {text}")
    bare.terminate()

    elsewhere = fleet.worker("-c", "1", "-Q", "images")
    text = "no online worker consumes queue 'celery' (online: w2@test [images])"
    assert text in operator.sees("no_worker", ready=True, details=text)["state"]["text"]
    bridge.says(f"1 job waits for {TRIAGE}: {text}")
    until(lambda: operator.samples("modelreins_waiting_jobs", "reason")["no_queue"] == 1, what="it is measured")
    elsewhere.terminate()

    fleet.worker("-c", "1")
    fleet.ended(job_id)
    operator.sees("idle", ready=True, details="idle")
    until(lambda: operator.presence[0] == "active", what="a router sees that jobs are claimed")
    operator.command("status", "--check")
    assert bridge.output.count("no worker is online") <= 2  # not once for each poll


def test_a_pause_is_shown_with_who_and_why(fleet: Fleet, operator: Operator) -> None:
    bridge = fleet.bridge()
    fleet.worker("-c", "1")
    operator.command("pause", "--why", "the database moves")
    fleet.dispatch("later", "email.triage")
    status = operator.sees("paused", ready=True, details="the database moves")
    assert operator.presence[0] == "busy"
    assert not status["state"]["wrong"]
    assert re.match(r"paused by \S+ for .+: the database moves", status["state"]["text"])
    until(lambda: operator.status["pending"] == 1, what="the pending job is counted")
    bridge.says("1 job waits: an operator has paused claiming")
    operator.command("status", "--check")


def test_a_full_fleet_is_busy(fleet: Fleet) -> None:
    operator = Operator(fleet)
    gate = fleet.folder / "gate"
    fleet.environment["PROJ_GATE"] = str(gate)
    fleet.bridge()
    fleet.worker("-c", "1")
    jobs = [fleet.dispatch(f"job {number}", "gated") for number in range(4)]
    operator.sees("full", ready=True, details="full: 2 of 2 slots are taken")
    until(lambda: operator.presence[0] == "busy", what="presence says busy")
    until(lambda: operator.samples("modelreins_waiting_jobs", "reason")["full"] == 2, what="two wait for a slot")
    gate.touch()
    fleet.ended(*jobs)


def test_jobs_that_wait_for_somebody_are_the_state_of_a_name_that_can_run_others(fleet: Fleet) -> None:
    operator = Operator(fleet)
    fleet.environment["PROJ_CONF"] = json.dumps({"task_routes": {"support.proj.who": {"queue": "images"}}})
    fleet.bridge()
    fleet.worker("-c", "1", "-Q", "celery")
    fleet.dispatch("hello", "who")
    text = "no online worker consumes queue 'images' (online: w1@test [celery])"
    status = operator.sees("jobs_wait", ready=True, details=text)
    assert status["state"]["wrong"]
    assert "-Q" in status["state"]["what_to_do"]
    shown = operator.command("status", "--check", code=1)
    assert " ".join(shown.split()).count("no online worker consumes queue 'images'") == 1


def test_an_address_with_a_wrong_path(fleet: Fleet, operator: Operator, sandbox: Sandbox) -> None:
    url = f"{sandbox.url}/wrong/path"
    bridge = fleet.bridge(ready=False, MODELREINS_URL=url)
    fleet.worker("-c", "1")
    status = operator.sees("server_unreachable", ready=False)
    assert "-> 404" in status["state"]["text"]
    assert "MODELREINS_URL" in status["state"]["what_to_do"]
    bridge.says(f"the server at {url} has been unreachable")
    assert ", ready" not in bridge.output
    assert "in a row" not in bridge.output


def test_a_refused_token(fleet: Fleet, operator: Operator) -> None:
    bridge = fleet.bridge(ready=False, MODELREINS_TOKEN="wrong")
    fleet.worker("-c", "1")
    status = operator.sees("token_refused", ready=False)
    assert status["state"]["text"].startswith("token refused for")
    assert "MODELREINS_TOKEN" in status["state"]["what_to_do"]
    operator.command("status", "--check", code=1)
    assert "ready" not in bridge.output


@contextmanager
def counted(bridge: Process) -> Iterator[list[str]]:
    """The lines that a bridge logs in the block, above the debug level."""
    lines: list[str] = []
    before = bridge.output
    yield lines
    lines += [line for line in bridge.output[len(before) :].splitlines() if line.strip()]


def outage_seconds(operator: Operator) -> float:
    body = requests.get(f"http://{operator.http}/health/ready", timeout=10).json()
    text = body["states"][operator.fleet.name]["text"]
    found = re.search(r"for ([\d.]+) (ms|s|min)\b", text)
    assert found, text
    return float(found[1]) * {"ms": 0.001, "s": 1.0, "min": 60.0}[found[2]]


def through_an_outage(operator: Operator, bridge: Process, kind: str, begin: Any, end: Any) -> list[str]:
    """The lines that a bridge logs during an outage."""
    with counted(bridge) as lines:
        begin()
        operator.sees(kind, ready=False)
        until(lambda: outage_seconds(operator) > OUTAGE_SECONDS, seconds=60, what="the outage has lasted")
        end()
        operator.sees("idle", ready=True)
        bridge.says("answers again, after")
    assert len(lines) == 2, lines
    return lines


def test_an_outage_of_the_server(fleet: Fleet, operator: Operator, sandbox: Sandbox) -> None:
    bridge = fleet.bridge()
    fleet.worker("-c", "1")
    operator.sees("idle", ready=True)
    lines = through_an_outage(operator, bridge, "server_unreachable", sandbox.stop, sandbox.start)
    began, over = lines
    assert f"the server at {sandbox.url} has been unreachable for" in began
    assert "No job is claimed, and outcomes wait in the ledger" in began
    assert f"the server at {sandbox.url} answers again, after" in over


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.stop()


def test_an_outage_of_the_ledger(fleet: Fleet, operator: Operator, own_redis: RedisServer) -> None:
    fleet.environment["MODELREINS_LEDGER_URL"] = own_redis.url(1)
    bridge = fleet.bridge()
    worker = fleet.worker("-c", "1")
    operator.sees("idle", ready=True)
    before = len(worker.output)
    lines = through_an_outage(operator, bridge, "ledger_unreachable", own_redis.kill, own_redis.start)
    began, over = lines
    assert f"the ledger at {own_redis.url(1)} has been unreachable for" in began
    assert f"the ledger at {own_redis.url(1)} answers again, after" in over
    of_worker = [line for line in worker.output[before:].splitlines() if "the ledger at" in line]
    assert len(of_worker) == 2, of_worker


@pytest.mark.long
def test_an_outage_of_the_broker(fleet: Fleet, operator: Operator, own_redis: RedisServer) -> None:
    fleet.environment["PROJ_BROKER"] = own_redis.url(0)
    bridge = fleet.bridge()
    fleet.worker("-c", "1")
    operator.sees("idle", ready=True)
    lines = through_an_outage(operator, bridge, "broker_unreachable", own_redis.kill, own_redis.start)
    began, over = lines
    assert f"the broker at {own_redis.url(0)} has been unreachable for" in began
    assert f"the broker at {own_redis.url(0)} answers again, after" in over


def test_bridges_of_one_name_agree_on_the_presence(fleet: Fleet, operator: Operator) -> None:
    """The last presence report of a stopping bridge does not hide the other bridge from a router."""
    fleet.environment["MODELREINS_HEARTBEAT_INTERVAL"] = "1"
    fleet.environment |= {"MODELREINS_TAGS": "economy", "MODELREINS_PROVIDER": "ollama"}
    reports: list[tuple[str, str]] = []
    store = fleet.sandbox.store
    report = store.report

    def noted(body: dict[str, Any]) -> Any:
        reports.append((str(body["status"]), str(body["details"])))
        assert (body["tags"], body["provider"]) == ("email.triage,economy", "ollama")
        return report(body)

    store.report = noted  # type: ignore[method-assign]
    fleet.worker("-c", "1")
    first = fleet.bridge()
    until(lambda: "active" in [status for status, _ in reports], what="it would claim a job")
    del reports[:]
    second = fleet.bridge(MODELREINS_HTTP="", MODELREINS_MAX_INFLIGHT="1")
    until(lambda: len(reports) > 8, what="both report")
    assert second.terminate() == 0
    until(lambda: any("stopped; 1 online" in details for _, details in reports), what="the last report of one")
    assert {status for status, _ in reports} == {"active"}
    assert first.terminate() == 0
    assert reports[-1] == ("idle", "bridge stopped")
