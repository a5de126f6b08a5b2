"""The Helm chart: linted and rendered by helm, and compared with the manifests."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from support.metrics import DEPLOY

CHART, MANIFESTS = DEPLOY / "helm", DEPLOY / "kubernetes"
VALUES: dict[str, Any] = {
    "image": {"repository": "registry.example.com/your-team/fleet", "tag": "1"},
    "app": "with_mr_celery",
    "workingDir": "/app/examples/image_worker",
    "settings": {"MODELREINS_NAME": "image-worker-01"},
}
"""What is in the manifests."""

EVERYTHING: dict[str, Any] = VALUES | {
    "imagePullSecrets": [{"name": "mine"}],
    "image": {"repository": "registry.example.com/your-team/fleet", "digest": "sha256:" + "0a" * 32},
    "settings": {
        "MODELREINS_NAME": "image-worker-01",
        "MODELREINS_SHUTDOWN_TIMEOUT": 20.5,
        "MODELREINS_RESULT_LIMIT": 10_000_000,
    },
    "bridge": {"nodeSelector": {"kind": "small"}, "tolerations": [{"key": "spot", "operator": "Exists"}]},
    "workers": {
        "worker": {"autoscaling": {"by": "jobs"}},
        "gpu": {
            "queues": ["gpu", "gpu-slow"],
            "concurrency": 1,
            "resources": {"limits": {"nvidia.com/gpu": 1}},
            "nodeSelector": {"gpu": "yes"},
            "autoscaling": {"by": "cpu", "maxReplicas": 3},
        },
    },
    "networkPolicy": {"outgoingPorts": [443, 5671]},
    "podMonitor": {"enabled": True},
}


def helm(*arguments: str, values: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run helm with these values."""
    own = Path(sys.executable).with_name("helm")
    program = str(own) if own.exists() else shutil.which("helm")
    assert program, "install helm, and put it on PATH"
    return subprocess.run(
        [program, *arguments, "--values", "-"],
        input=yaml.safe_dump(values),
        capture_output=True,
        text=True,
        check=False,
    )


def rendered(values: dict[str, Any], release: str = "modelreins") -> dict[tuple[str, str], dict[str, Any]]:
    """The objects of a release, by kind and name."""
    done = helm("template", release, str(CHART), values=values)
    assert done.returncode == 0, done.stderr
    return by_name(yaml.safe_load_all(done.stdout))


def by_name(objects: Any) -> dict[tuple[str, str], dict[str, Any]]:
    found = [each for each in objects if each is not None]
    names = {(each["kind"], each["metadata"]["name"]): each for each in found}
    assert len(names) == len(found)
    return names


@pytest.mark.parametrize("values", [VALUES, EVERYTHING], ids=["values", "everything"])
def test_chart_has_no_lint(values: dict[str, Any]) -> None:
    done = helm("lint", "--strict", str(CHART), values=values)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", ["1.31", "1.34", "1.37"])
@pytest.mark.parametrize("values", [VALUES, EVERYTHING], ids=["values", "everything"])
def test_objects_match_their_schemas(values: dict[str, Any], version: str) -> None:
    for (kind, _), each in rendered(values).items():
        if kind != "PodMonitor":
            kubernetes_validate.validate(each, version, strict=True)


def comparable(thing: dict[str, Any]) -> dict[str, Any]:
    """An object without what only helm adds, and without the image, which kustomize replaces in the manifests."""
    thing = copy.deepcopy(thing)
    for label in ("helm.sh/chart", "app.kubernetes.io/managed-by"):
        thing["metadata"]["labels"].pop(label, None)
    pod = thing.get("spec", {}).get("template", {})
    pod.get("metadata", {}).pop("annotations", None)
    for container in pod.get("spec", {}).get("containers", ()):
        container.pop("imagePullPolicy", None)
        if container["name"] != "redis":
            container.pop("image")
        else:
            container["command"] = [" ".join(part.split()) for part in container["command"]]
    return thing


def test_chart_and_manifests_are_the_same() -> None:
    files = [*MANIFESTS.glob("*.yaml"), MANIFESTS / "optional/hpa.yaml", MANIFESTS / "optional/podmonitor.yaml"]
    manifests = by_name(
        each
        for path in files
        if path.name not in ("kustomization.yaml", "secret.example.yaml")
        for each in yaml.safe_load_all(path.read_text())
    )
    scaled = {"workers": {"worker": {"autoscaling": {"by": "jobs"}}}, "podMonitor": {"enabled": True}}
    chart = rendered(VALUES) | {
        name: each
        for name, each in rendered(VALUES | scaled).items()
        if name[0] in ("HorizontalPodAutoscaler", "PodMonitor")
    }
    assert chart.keys() == manifests.keys()
    for name, each in manifests.items():
        assert comparable(chart[name]) == comparable(each), name


def test_two_releases_share_nothing() -> None:
    first, second = rendered(EVERYTHING, "first"), rendered(EVERYTHING, "second")
    assert not first.keys() & second.keys()
    selectors = [
        each["spec"]["selector"] for each in (*first.values(), *second.values()) if each["kind"] == "Deployment"
    ]
    assert len({str(selector) for selector in selectors}) == len(selectors) == 6


def test_every_part_of_the_values_has_its_effect() -> None:
    objects = rendered(EVERYTHING)
    gpu = objects["Deployment", "modelreins-gpu"]["spec"]
    (container,) = gpu["template"]["spec"]["containers"]
    assert container["image"] == EVERYTHING["image"]["repository"] + "@" + EVERYTHING["image"]["digest"]
    assert container["command"][container["command"].index("--queues") + 1] == "gpu,gpu-slow"
    assert container["command"][container["command"].index("--concurrency") + 1] == "1"
    assert container["resources"]["limits"] == {"memory": "1Gi", "nvidia.com/gpu": 1}
    assert gpu["template"]["spec"]["nodeSelector"] == {"gpu": "yes"}
    assert "replicas" not in gpu
    for name in ("modelreins-gpu", "modelreins-worker"):
        assert objects["HorizontalPodAutoscaler", name]["spec"]["scaleTargetRef"]["name"] == name
    bridge = objects["Deployment", "modelreins-bridge"]["spec"]["template"]["spec"]
    assert bridge["terminationGracePeriodSeconds"] == 36
    assert bridge["imagePullSecrets"] == [{"name": "mine"}]
    assert bridge["tolerations"] == [{"key": "spot", "operator": "Exists"}]
    assert objects["ConfigMap", "modelreins"]["data"]["MODELREINS_RESULT_LIMIT"] == "10000000"
    outgoing = objects["NetworkPolicy", "modelreins-outgoing"]["spec"]
    assert "modelreins-gpu" in str(outgoing["podSelector"])
    assert outgoing["egress"][-1]["ports"] == [{"port": 443}, {"port": 5671}]


def test_redis_and_policies_can_be_left_out() -> None:
    objects = rendered(VALUES | {"redis": {"enabled": False}, "networkPolicy": {"enabled": False}})
    assert {kind for kind, _ in objects} == {"ConfigMap", "Deployment", "PodDisruptionBudget"}


def test_pods_are_replaced_when_settings_change() -> None:
    settings = {"MODELREINS_NAME": "image-worker-01", "MODELREINS_LEASE": "60"}
    before, after = rendered(VALUES), rendered(VALUES | {"settings": settings})
    for name in (("Deployment", "modelreins-bridge"), ("Deployment", "modelreins-worker")):
        templates = [each[name]["spec"]["template"]["metadata"]["annotations"] for each in (before, after)]
        assert templates[0] != templates[1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image": {}}, "set image.repository"),
        ({"image": {"repository": "a/b"}}, "set image.tag or image.digest"),
        ({"app": ""}, "set app"),
        ({"settings": {}}, "set settings.MODELREINS_NAME"),
        ({"settings": {"MODELREINS_NAME": "a", "MODELREINS_TOKEN": "secret"}}, "MODELREINS_TOKEN"),
        ({"workers": {"worker": None}}, "workers"),
        ({"workers": {"worker": {"replica": 3}}}, "replica"),
        ({"workers": {"bridge": {}}}, "workers"),
        ({"workers": {"worker": {"autoscaling": {"by": "moon"}}}}, "autoscaling.by"),
        ({"redis": {"maxmemory": "much"}}, "redis.maxmemory"),
        ({"bridges": {}}, "bridges"),
    ],
    ids=str,
)
def test_mistakes_are_named(values: dict[str, Any], message: str) -> None:
    done = helm("template", "modelreins", str(CHART), values=VALUES | values)
    assert done.returncode != 0
    assert message in done.stderr


def test_workers_may_all_be_named_by_modelreins_workers() -> None:
    objects = rendered(VALUES | {"settings": {"MODELREINS_NAME": "", "MODELREINS_WORKERS": '{"a": {}, "b": {}}'}})
    assert "MODELREINS_NAME" not in objects["ConfigMap", "modelreins"]["data"]
