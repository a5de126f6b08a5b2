"""Metrics and health probes of a bridge."""

from __future__ import annotations

import json
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from mr_celery.sandbox.chaos import Rule
from support import fork_server
from support.fleet import BIN, Fleet
from support.metrics import documented, names_in
from support.ports import free_port, until

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Monitor:
    """Requests metrics and probes from a bridge.

    Args:
        fleet: the installation.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        fleet.environment["MODELREINS_HTTP"] = self.address

    def get(self, path: str) -> requests.Response:
        return requests.get(f"http://{self.address}{path}", timeout=10)

    def samples(self) -> Samples:
        """All samples, by name and labels except the worker name."""
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


@contextmanager
def dripping(address: str, connections: int) -> Iterator[None]:
    """Keep this many connections open or connecting, which send the headers of a request byte by byte."""
    host, _, port = address.rpartition(":")
    clients: list[socket.socket] = []
    end = threading.Event()

    def open_one() -> socket.socket:
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex((host, int(port)))
        return client

    def drip() -> None:
        while not end.wait(0.2):
            for number, client in enumerate(clients):
                try:
                    client.send(b"G")
                except BlockingIOError:
                    continue
                except OSError:  # closed by the bridge: the next one replaces it
                    client.close()
                    clients[number] = open_one()

    clients += [open_one() for _ in range(connections)]
    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
        for client in clients:
            client.close()


def test_metrics_of_finished_jobs(fleet: Fleet, monitor: Monitor) -> None:
    fleet.bridge()
    fleet.worker()
    fleet.ended(*(fleet.dispatch(f"job {number}") for number in range(5)), fleet.dispatch("wrong", "raise"))
    awaited(lambda: monitor.value("deliveries_total", outcome="delivered") == 6, "all outcomes are delivered")
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
    assert found("runs_lost_total", cause="lease") == 0  # present from the start, so that its first increase is visible
    age = found("presence_age_seconds")
    assert age is not None
    assert age < 10


def test_metrics_of_server_errors(fleet: Fleet, monitor: Monitor) -> None:
    fleet.bridge()
    fleet.worker()
    fleet.sandbox.chaos.set([Rule("status", status=503, routes=("close",))])
    fleet.dispatch("late")
    awaited(lambda: (monitor.value("deliveries_total", outcome="put_off") or 0) >= 2, "deliveries are postponed")
    assert (monitor.value("delivery_errors_total", route="close", status="503") or 0) >= 2
    assert (monitor.value("server_errors_total", route="close", status="503") or 0) >= 1  # by the courier
    assert (monitor.value("oldest_undelivered_seconds") or 0) > 0
    # Every metric has a sample now, so this verifies the list in the docs. Dashboard and alerts are tested against it.
    names = names_in(" ".join(name for name, _ in monitor.samples()))
    assert names == set(documented())


def test_probes_while_the_token_is_rejected(fleet: Fleet, monitor: Monitor) -> None:
    bridge = fleet.bridge()
    awaited(lambda: monitor.get("/health/ready").status_code == 200, "the bridge is ready")
    assert monitor.get("/health/live").json() == {"ok": True, "trouble": {}}
    assert monitor.get("/elsewhere").status_code == 404
    fleet.sandbox.chaos.set([Rule("status", status=401)])
    awaited(lambda: "token" in monitor.get("/health/ready").text, "the bridge is not ready")
    answer = monitor.get("/health/ready")
    assert answer.status_code == 503
    assert "token refused for" in answer.json()["trouble"]["w"]["token"]
    assert monitor.get("/health/live").status_code == 200
    fleet.sandbox.chaos.clear()
    awaited(lambda: monitor.get("/health/ready").status_code == 200, "the bridge is ready again")
    assert bridge.terminate() == 0


def test_without_a_ledger_the_bridge_is_not_ready_and_serves_its_own_metrics(fleet: Fleet, monitor: Monitor) -> None:
    fleet.bridge(ready=False, MODELREINS_LEDGER_URL="redis://127.0.0.1:1/0").says("metrics and health")
    awaited(lambda: "ledger" in monitor.get("/health/ready").text, "the probe reports the ledger")
    names = {name for name, _ in monitor.samples()}
    assert "modelreins_bridge_info" in names
    assert "modelreins_jobs_in_flight" not in names
    assert monitor.get("/health/live").status_code == 200


def test_port_in_use_fails_with_one_line(fleet: Fleet, monitor: Monitor) -> None:
    fleet.bridge()
    command = [str(BIN / "celery"), "-A", fleet.app, "modelreins", "bridge"]
    done = fork_server.run(command, env=fleet.environment, timeout=60)
    assert done.returncode == 1
    assert f"cannot listen on {monitor.address}" in done.stderr
    assert "Traceback" not in done.stderr


def test_probes_name_the_worker_and_the_problem(fleet: Fleet, monitor: Monitor) -> None:
    fleet.sandbox.chaos.set([Rule("status", status=500, routes=("presence",))])
    fleet.bridge()
    awaited(
        lambda: "never accepted" in monitor.get("/health/ready").text,
        "the probe reports that presence was never accepted",
    )
    assert json.loads(monitor.get("/health/ready").text)["ok"] is False


def test_dripping_connections_do_not_silence_the_bridge(fleet: Fleet, monitor: Monitor) -> None:
    bridge = fleet.bridge()
    fleet.worker()
    resource.prlimit(bridge.popen.pid, resource.RLIMIT_NOFILE, (256, 256))
    process = psutil.Process(bridge.popen.pid)
    with dripping(monitor.address, connections=1022):
        fleet.ended(fleet.dispatch("meanwhile"))
        assert monitor.get("/health/ready").status_code == 200
        assert monitor.get("/metrics").status_code == 200
        reported = fleet.sandbox.store.workers()[0]["seen_at"]
        awaited(lambda: fleet.sandbox.store.workers()[0]["seen_at"] > reported, "presence goes on")
        assert process.num_fds() < 200
    assert "Too many open files" not in bridge.output
    assert bridge.terminate() == 0


def test_bridge_runs_without_the_packages_for_metrics(fleet: Fleet, monitor: Monitor, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['uvicorn'] = None\n")
    paths = f"{tmp_path}:{fleet.environment.get('PYTHONPATH', '')}"
    bridge = fleet.bridge(ready=False, PYTHONPATH=paths)
    bridge.says("metrics and health are not served: uvicorn is not installed")
    bridge.says('pip install "mr-celery[metrics]"')
    bridge.says("ready")
