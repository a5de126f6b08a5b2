"""docker-compose.yml and the Dockerfile, as far as they can be checked without an engine."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from mr_celery.settings import Settings, options
from support.metrics import ROOT


def _commands() -> list[list[str]]:
    """Every docker compose of this machine: the older program, and the plugin of the newer one."""
    found = [["docker-compose"]] if shutil.which("docker-compose") else []
    if shutil.which("docker"):
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        found += [["docker", "compose"]] if plugin.returncode == 0 else []
    return found


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    """The file as docker-compose reads it."""
    done = subprocess.run([*_commands()[0], "config"], cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


def test_docker_compose_accepts_the_file() -> None:
    commands = _commands()
    assert commands, "tools/install-servers.sh installs docker-compose"
    for command in commands:
        done = subprocess.run([*command, "config", "--quiet"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_ports_are_open_for_this_host_only(composed: dict[str, Any]) -> None:
    ports = {
        name: service["ports"]
        for name, service in yaml_of("docker-compose.yml")["services"].items()
        if "ports" in service
    }
    assert set(ports) == {"sandbox", "flower", "prometheus", "grafana"}
    assert all(port.startswith("127.0.0.1:") for each in ports.values() for port in each)
    # What is scaled must not claim a port of the host.
    assert not {"worker", "bridge"} & {name for name, service in composed["services"].items() if "ports" in service}


def test_what_is_mounted_is_there() -> None:
    services = yaml_of("docker-compose.yml")["services"]
    mounted = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())]
    assert len([source for source in mounted if source.startswith("./")]) == 4
    for source in mounted:
        assert not source.startswith("./") or (ROOT / source).exists(), source


def test_services_have_the_time_that_they_need_to_stop(composed: dict[str, Any]) -> None:
    services = composed["services"]
    assert seconds(services["bridge"]["stop_grace_period"]) > Settings.shutdown_timeout + Settings.timeout
    assert seconds(services["worker"]["stop_grace_period"]) > Settings.lease


def test_settings_are_settings(composed: dict[str, Any]) -> None:
    known = {option.environment for option in options()}
    for service in composed["services"].values():
        names = {name for name in service.get("environment", {}) if name.startswith("MODELREINS_")}
        assert names <= known


def test_bridges_are_where_prometheus_looks_for_them(composed: dict[str, Any]) -> None:
    (job,) = yaml_of("deploy/prometheus/prometheus.yml")["scrape_configs"]
    (place,) = job["dns_sd_configs"]
    assert set(place["names"]) <= set(composed["services"])
    assert f"0.0.0.0:{place['port']}" in composed["services"]["bridge"]["command"]
    assert f":{place['port']}/health/ready" in composed["services"]["bridge"]["healthcheck"]["test"][-1]


def test_the_targets_that_are_built_are_in_the_dockerfile(composed: dict[str, Any]) -> None:
    targets = set(re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    built = {service["build"]["target"] for service in composed["services"].values() if "build" in service}
    assert built == targets


def test_what_the_dockerfile_copies_is_sent_to_the_engine() -> None:
    copied = {
        source
        for line in re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        for source in line.split()
    }
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    assert copied == sent
    assert all((ROOT / source).exists() for source in copied)


def yaml_of(path: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / path).read_text())
    return found


def seconds(duration: str) -> float:
    """``1m30s`` in seconds."""
    units = {"s": 1, "m": 60, "h": 3600}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"(\d+)([smh])", duration))
