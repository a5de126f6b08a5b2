"""Checks of docker-compose.yml and the Dockerfile that need no container engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
import yaml

from mr_celery.settings import Settings, options
from support.metrics import ROOT
from support.ports import free_port, listens, until


def _commands() -> list[list[str]]:
    """All installed versions of docker compose: the standalone program and the plugin."""
    found = [["docker-compose"]] if shutil.which("docker-compose") else []
    if shutil.which("docker"):
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        found += [["docker", "compose"]] if plugin.returncode == 0 else []
    return found


PASSWORDS = {
    name: f"secret-{name}" for name in ("MODELREINS_TOKEN", "REDIS_PASSWORD", "GRAFANA_PASSWORD", "FLOWER_PASSWORD")
}


def config(command: list[str], passwords: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run ``docker compose config`` with these passwords, and without a ``.env`` of the folder."""
    environment = {name: value for name, value in os.environ.items() if name not in PASSWORDS} | dict(passwords)
    with tempfile.NamedTemporaryFile() as empty:
        arguments = [*command, "--env-file", empty.name, "config"]
        return subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    """The parsed file."""
    done = config(_commands()[0], PASSWORDS)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


def test_file_is_valid() -> None:
    commands = _commands()
    assert commands, "tools/install-servers.sh installs docker-compose"
    for command in commands:
        done = config(command, PASSWORDS)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("missing", PASSWORDS)
def test_there_are_no_default_passwords(missing: str) -> None:
    for value in ({}, {missing: ""}):
        done = config(_commands()[0], {**{name: PASSWORDS[name] for name in PASSWORDS if name != missing}, **value})
        assert done.returncode != 0
        assert "make .env first, as the top of docker-compose.yml says" in done.stderr
    top = (ROOT / "docker-compose.yml").read_text().partition("\nx-")[0]
    assert missing in top


def test_passwords_are_in_no_arguments(composed: dict[str, Any]) -> None:
    for service in composed["services"].values():
        for part in ("command", "healthcheck"):
            assert "secret-" not in str(service.get(part))


def test_services_have_few_rights(composed: dict[str, Any]) -> None:
    for name, service in composed["services"].items():
        assert re.fullmatch(r"[1-9]\d*:\d+", service["user"]), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True, name
        assert "/tmp" in service["tmpfs"], name


def test_images_have_exact_versions(composed: dict[str, Any]) -> None:
    images = [service["image"] for service in composed["services"].values() if "image" in service]
    bases = re.findall(r"^FROM (\S+:\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    manifests = (ROOT / "deploy/kubernetes/redis.yaml").read_text()
    images += [*bases, *re.findall(r"image: (\S+:\S+)", manifests)]
    assert len(images) == 5
    values = yaml_of("deploy/helm/values.yaml")["redis"]["image"]
    assert f"{values['repository']}:{values['tag']}" in images
    for image in images:
        assert re.search(r":v?\d+\.\d+\.\d+(-[\w.-]+)?(@sha256:[0-9a-f]{64})?$", image), image


def test_images_are_kept_up_to_date() -> None:
    renovate = json.loads((ROOT / "renovate.json").read_text())
    assert "docker:pinDigests" in renovate["extends"]
    assert set(renovate["enabledManagers"]) == {"dockerfile", "docker-compose", "helm-values", "kubernetes"}
    (pattern,) = renovate["kubernetes"]["managerFilePatterns"]
    assert re.search(pattern.strip("/"), "deploy/kubernetes/redis.yaml")


def test_no_stage_of_the_dockerfile_runs_as_root() -> None:
    for stage in re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)[1:]:
        users = re.findall(r"^USER (\S+)$", stage, re.MULTILINE)
        assert users[-1:] in ([], ["10001:10001"])


def redis_script(command: list[str], folder: Path) -> list[str]:
    """The start of Redis in a container, with other folders."""
    shell, options, script = command
    return [shell, options, script.replace("/run/redis", str(folder)).replace("/data", str(folder))]


@pytest.mark.parametrize("file", ["docker-compose.yml", "deploy/kubernetes/redis.yaml"])
def test_redis_needs_the_password_and_does_not_show_it(file: str, tmp_path: Path) -> None:
    if file == "docker-compose.yml":
        command = [part.replace("$$", "$") for part in yaml_of(file)["services"]["redis"]["command"]]
    else:
        (pod,) = [each for each in yaml.safe_load_all((ROOT / file).read_text()) if each["kind"] == "StatefulSet"]
        command = pod["spec"]["template"]["spec"]["containers"][0]["command"]
    script = redis_script(command, tmp_path)
    port = free_port()
    script[2] += f" --port {port} --bind 127.0.0.1"
    with subprocess.Popen(script, env={**os.environ, "REDIS_PASSWORD": "the-password"}) as process:
        try:
            until(lambda: listens(port), what="Redis listens")
            with pytest.raises(redis.AuthenticationError):
                redis.Redis(port=port).ping()
            assert redis.Redis(port=port, password="the-password").ping()
            shown = psutil.Process(process.pid)
            assert shown.name() == "redis-server"
            assert "the-password" not in " ".join(shown.cmdline())
            assert (tmp_path / "redis.conf").stat().st_mode & 0o777 == 0o600
        finally:
            process.terminate()
    if file != "docker-compose.yml":  # docker-compose refuses an empty one itself
        done = subprocess.run(script, env={**os.environ, "REDIS_PASSWORD": ""}, capture_output=True, text=True)
        assert done.returncode != 0
        assert "set it in the Secret modelreins" in done.stderr


def test_redis_refuses_writes_before_its_container_is_full(composed: dict[str, Any]) -> None:
    compose = yaml_of("docker-compose.yml")["services"]["redis"]
    (pod,) = [
        each
        for each in yaml.safe_load_all((ROOT / "deploy/kubernetes/redis.yaml").read_text())
        if each["kind"] == "StatefulSet"
    ]
    (container,) = pod["spec"]["template"]["spec"]["containers"]
    values = yaml_of("deploy/helm/values.yaml")["redis"]
    for script, limit in (
        (compose["command"][-1], compose["mem_limit"]),
        (container["command"][-1], container["resources"]["limits"]["memory"]),
        (f"--maxmemory {values['maxmemory']} ", values["resources"]["limits"]["memory"]),
    ):
        (most,) = re.findall(r"--maxmemory (\d+)mb ", script)
        (whole,) = re.findall(r"(\d+)mi?$", limit.lower())
        # What Redis writes to disk is copied while it changes.
        assert 0.5 < int(most) / int(whole) < 0.75
    assert composed["services"]["redis"]["mem_limit"]


def test_ports_are_bound_to_localhost(composed: dict[str, Any]) -> None:
    ports = {
        name: service["ports"]
        for name, service in yaml_of("docker-compose.yml")["services"].items()
        if "ports" in service
    }
    assert set(ports) == {"sandbox", "flower", "prometheus", "grafana"}
    assert all(port.startswith("127.0.0.1:") for each in ports.values() for port in each)
    # What is scaled must not claim a port of the host.
    assert not {"worker", "bridge"} & {name for name, service in composed["services"].items() if "ports" in service}


def test_mounted_files_exist() -> None:
    services = yaml_of("docker-compose.yml")["services"]
    mounted = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())]
    assert len([source for source in mounted if source.startswith("./")]) == 4
    for source in mounted:
        assert not source.startswith("./") or (ROOT / source).exists(), source


def test_services_have_enough_time_to_stop(composed: dict[str, Any]) -> None:
    services = composed["services"]
    assert seconds(services["bridge"]["stop_grace_period"]) > Settings.shutdown_timeout + Settings.timeout
    assert seconds(services["worker"]["stop_grace_period"]) > Settings.lease


def test_environment_has_known_settings(composed: dict[str, Any]) -> None:
    known = {option.environment for option in options()}
    for service in composed["services"].values():
        names = {name for name in service.get("environment", {}) if name.startswith("MODELREINS_")}
        assert names <= known


def test_prometheus_scrapes_the_bridges(composed: dict[str, Any]) -> None:
    (job,) = yaml_of("deploy/prometheus/prometheus.yml")["scrape_configs"]
    (place,) = job["dns_sd_configs"]
    assert set(place["names"]) <= set(composed["services"])
    assert f"0.0.0.0:{place['port']}" in composed["services"]["bridge"]["command"]
    assert f":{place['port']}/health/ready" in composed["services"]["bridge"]["healthcheck"]["test"][-1]


def test_build_targets_exist_in_the_dockerfile(composed: dict[str, Any]) -> None:
    targets = set(re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    built = {service["build"]["target"] for service in composed["services"].values() if "build" in service}
    assert built == targets


def test_copied_files_are_not_ignored() -> None:
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
    """Parse a duration such as ``1m30s`` to seconds."""
    units = {"s": 1, "m": 60, "h": 3600}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"(\d+)([smh])", duration))
