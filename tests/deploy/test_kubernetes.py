"""The Kubernetes manifests: by the schemas of several versions, and what schemas do not say.

KEDA's and the Prometheus operator's own kinds have no schema here: for them it is checked that they name what is there.
"""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest
import yaml

from mr_celery.settings import Settings, options
from support.metrics import DEPLOY

FOLDER = DEPLOY / "kubernetes"
VERSIONS = ("1.31", "1.34", "1.37")
FOREIGN = ("optional/keda.yaml", "optional/podmonitor.yaml", "kustomization.yaml")


def _objects(path: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / path).read_text()))


FILES = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.yaml"))
OBJECTS = [each for path in FILES if path not in FOREIGN for each in _objects(path)]
PODS = {each["metadata"]["name"]: each["spec"]["template"] for each in OBJECTS if "template" in each.get("spec", {})}


def _name(thing: dict[str, Any]) -> str:
    return f"{thing['kind']} {thing['metadata']['name']}"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("thing", OBJECTS, ids=_name)
def test_an_object_fits_its_schema(thing: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(thing, version, strict=True)


def test_a_wrong_field_is_found() -> None:
    wrong = yaml.safe_load(yaml.safe_dump(OBJECTS[0]))
    wrong["spec"]["replica"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("thing", OBJECTS, ids=_name)
def test_an_object_is_in_no_namespace_and_says_what_it_belongs_to(thing: dict[str, Any]) -> None:
    assert "namespace" not in thing["metadata"]
    assert thing["metadata"]["labels"]["app.kubernetes.io/part-of"] == "modelreins"


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_a_pod_is_allowed_where_pods_are_restricted(pod: dict[str, Any]) -> None:
    spec = pod["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]


def test_every_selector_finds_its_pods() -> None:
    for thing in OBJECTS:
        selector = thing.get("spec", {}).get("selector")
        if selector is not None:
            wanted = selector.get("matchLabels", selector)
            found = [name for name, pod in PODS.items() if wanted.items() <= pod["metadata"]["labels"].items()]
            assert len(found) == 1, _name(thing)


def test_what_pods_take_their_environment_from_is_there() -> None:
    given = {(each["kind"], each["metadata"]["name"]): each for each in OBJECTS}
    for pod in PODS.values():
        for source in (each for container in pod["spec"]["containers"] for each in container.get("envFrom", ())):
            kind = "ConfigMap" if "configMapRef" in source else "Secret"
            assert (kind, next(iter(source.values()))["name"]) in given
    names = {*given["ConfigMap", "modelreins"]["data"], *given["Secret", "modelreins"]["stringData"]}
    known = {option.environment for option in options()}
    assert {name for name in names if name.startswith("MODELREINS_")} <= known
    host = given["ConfigMap", "modelreins"]["data"]["CELERY_BROKER_URL"].removeprefix("redis://").split(":")[0]
    assert ("Service", host) in given


def test_pods_have_the_time_that_they_need_to_stop() -> None:
    (configuration,) = _objects("configmap.yaml")
    shutdown = float(configuration["data"]["MODELREINS_SHUTDOWN_TIMEOUT"])
    assert PODS["modelreins-bridge"]["spec"]["terminationGracePeriodSeconds"] > shutdown + Settings.timeout
    assert PODS["modelreins-worker"]["spec"]["terminationGracePeriodSeconds"] > Settings.lease


def test_probes_ask_the_port_that_the_bridge_serves() -> None:
    (bridge,) = PODS["modelreins-bridge"]["spec"]["containers"]
    (port,) = bridge["ports"]
    assert f"0.0.0.0:{port['containerPort']}" in bridge["command"]
    probes = {name: bridge[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {probe["port"] for probe in probes.values()} == {port["name"]}
    assert probes["livenessProbe"]["path"] == "/health/live"
    assert probes["readinessProbe"]["path"] == "/health/ready"


def test_the_kustomization_lists_every_file_and_names_the_image() -> None:
    (kustomization,) = _objects("kustomization.yaml")
    text = (FOLDER / "kustomization.yaml").read_text()
    listed = set(kustomization["resources"])
    assert listed | {"kustomization.yaml", "secret.example.yaml"} == {path for path in FILES if "optional" not in path}
    assert all(f"# - {path} " in text for path in FILES if "optional" in path)
    images = {container["image"] for pod in PODS.values() for container in pod["spec"]["containers"]}
    assert {image["name"] for image in kustomization["images"]} == {image for image in images if ":" not in image}


def test_the_scaler_scales_the_workers_by_their_slots() -> None:
    (scaler,) = _objects("optional/keda.yaml")
    (trigger,) = scaler["spec"]["triggers"]
    target = scaler["spec"]["scaleTargetRef"]
    (worker,) = PODS[target["name"]]["spec"]["containers"]
    assert _name({"kind": target["kind"], "metadata": target}) in map(_name, OBJECTS)
    assert trigger["metadata"]["threshold"] == worker["command"][worker["command"].index("--concurrency") + 1]
    assert scaler["spec"]["minReplicaCount"] == 1, "without a worker nothing is claimed, so nothing would be in flight"
    (configuration,) = _objects("configmap.yaml")
    assert f'worker_name="{configuration["data"]["MODELREINS_NAME"]}"' in trigger["metadata"]["query"]


def test_the_pod_monitor_finds_the_bridges() -> None:
    (monitor,) = _objects("optional/podmonitor.yaml")
    wanted, pod = monitor["spec"]["selector"]["matchLabels"], PODS["modelreins-bridge"]
    assert wanted.items() <= pod["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in [port["name"] for port in pod["spec"]["containers"][0]["ports"]]
    (relabeling,) = endpoint["relabelings"]
    (job,) = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert relabeling == {"targetLabel": "job", "replacement": job["job_name"]}
