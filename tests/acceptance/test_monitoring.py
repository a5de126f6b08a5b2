"""A bridge tells a monitoring how it is: metrics, and probes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from mr_celery.sandbox.chaos import Rule
from support.fleet import BIN, Fleet
from support.metrics import documented, names_in
from support.ports import free_port, until

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Monitor:
    """Asks a bridge over HTTP.

    Args:
        fleet: the installation.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        fleet.environment["MODELREINS_HTTP"] = self.address

    def get(self, path: str) -> requests.Response:
        return requests.get(f"http://{self.address}{path}", timeout=10)

    def samples(self) -> Samples:
        """All samples, by name and labels, less the worker name."""
        answer = self.get("/metrics")
        assert answer.status_code == 200
        found: Samples = {}
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                labels = dict(sample.labels)
                assert labels.pop("worker_name") == "w"
                key = (sample.name, tuple(sorted(labels.items())))
                assert key not in found
                found[key] = sample.value
        return found

    def value(self, name: str, **labels: str) -> float | None:
        return self.samples().get((f"modelreins_{name}", tuple(sorted(labels.items()))))


@pytest.fixture
def monitor(fleet: Fleet) -> Monitor:
    return Monitor(fleet)


def awaited(condition: Callable[[], bool], what: str) -> None:
    until(condition, seconds=30, what=what)


def test_the_metrics_tell_what_became_of_the_jobs(fleet: Fleet, monitor: Monitor) -> None:
    fleet.bridge()
    fleet.worker()
    fleet.ended(*(fleet.dispatch(f"job {number}") for number in range(5)), fleet.dispatch("wrong", "raise"))
    awaited(lambda: monitor.value("deliveries_total", outcome="delivered") == 6, "all are delivered")
    found = monitor.value
    assert found("jobs_claimed_total") == 6
    assert found("jobs_finished_total", task="support.proj.upper", status="done") == 5
    assert found("jobs_finished_total", task="support.proj.fails", status="failed") == 1
    assert found("run_duration_seconds_count", task="support.proj.upper") == 5
    assert found("run_duration_seconds_bucket", task="support.proj.upper", le="+Inf") == 5
    assert found("pickup_seconds_count") == found("delivery_duration_seconds_count") == 6
    assert found("claim_requests_total", result="claimed") == 6
    assert found("jobs_in_flight", state="running") == 0
    assert found("workers_online") == found("bridges_online") == 1
    assert (found("worker_slots"), found("capacity_jobs")) == (2, 4)
    assert found("paused") == found("token_rejected") == found("oldest_undelivered_seconds") == 0
    assert found("runs_lost_total", cause="lease") == 0  # from the start, so that its first rise is seen
    age = found("presence_age_seconds")
    assert age is not None
    assert age < 10


def test_the_metrics_tell_of_a_server_in_trouble(fleet: Fleet, monitor: Monitor) -> None:
    fleet.bridge()
    fleet.worker()
    fleet.sandbox.chaos.set([Rule("status", status=503, routes=("close",))])
    fleet.dispatch("late")
    awaited(lambda: (monitor.value("deliveries_total", outcome="put_off") or 0) >= 2, "deliveries are put off")
    assert (monitor.value("delivery_errors_total", route="close", status="503") or 0) >= 2
    assert (monitor.value("server_errors_total", route="close", status="503") or 0) >= 1  # the courier's
    assert (monitor.value("oldest_undelivered_seconds") or 0) > 0
    # Every metric has a sample now: they are those of the page, and so those of the dashboard and the alerts.
    names = names_in(" ".join(name for name, _ in monitor.samples()))
    assert names == set(documented())


def test_the_probes_tell_a_bridge_that_works_from_one_that_waits(fleet: Fleet, monitor: Monitor) -> None:
    bridge = fleet.bridge()
    awaited(lambda: monitor.get("/health/ready").status_code == 200, "it is ready")
    assert monitor.get("/health/live").json() == {"ok": True, "trouble": {}}
    assert monitor.get("/elsewhere").status_code == 404
    fleet.sandbox.chaos.set([Rule("status", status=401)])
    awaited(lambda: "token" in monitor.get("/health/ready").text, "it is not ready")
    answer = monitor.get("/health/ready")
    assert answer.status_code == 503
    assert "the server refuses it" in answer.json()["trouble"]["w"]["token"]
    assert monitor.get("/health/live").status_code == 200
    fleet.sandbox.chaos.clear()
    awaited(lambda: monitor.get("/health/ready").status_code == 200, "it is ready again")
    assert bridge.terminate() == 0


def test_without_its_ledger_a_bridge_is_not_ready_and_tells_what_it_knows(fleet: Fleet, monitor: Monitor) -> None:
    fleet.bridge(ready=False, MODELREINS_LEDGER_URL="redis://127.0.0.1:1/0").says("metrics and health")
    awaited(lambda: "ledger" in monitor.get("/health/ready").text, "it tells of its ledger")
    names = {name for name, _ in monitor.samples()}
    assert "modelreins_bridge_info" in names
    assert "modelreins_jobs_in_flight" not in names
    assert monitor.get("/health/live").status_code == 200


def test_a_port_that_is_taken_is_told_in_one_line(fleet: Fleet, monitor: Monitor) -> None:
    fleet.bridge()
    command = [str(BIN / "celery"), "-A", fleet.app, "modelreins", "bridge"]
    done = subprocess.run(command, env=fleet.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"cannot listen on {monitor.address}" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_probes_answer_json_that_says_of_whom(fleet: Fleet, monitor: Monitor) -> None:
    fleet.sandbox.chaos.set([Rule("status", status=500, routes=("presence",))])
    fleet.bridge()
    awaited(lambda: "never taken" in monitor.get("/health/ready").text, "presence was never taken")
    assert json.loads(monitor.get("/health/ready").text)["ok"] is False
