"""The Kubernetes manifests: validation by the schemas of several versions, and further checks.

KEDA's and the Prometheus operator's own kinds have no schema here: for them it is checked that they name what is there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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
def test_object_matches_its_schema(thing: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(thing, version, strict=True)


def test_wrong_field_is_detected() -> None:
    wrong = yaml.safe_load(yaml.safe_dump(OBJECTS[0]))
    wrong["spec"]["replica"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("thing", OBJECTS, ids=_name)
def test_objects_have_labels_and_no_namespace(thing: dict[str, Any]) -> None:
    assert "namespace" not in thing["metadata"]
    assert thing["metadata"]["labels"]["app.kubernetes.io/part-of"] == "modelreins"


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_pods_meet_the_restricted_policy(pod: dict[str, Any]) -> None:
    spec = pod["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["runAsUser"] > 0
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


def test_selectors_match_pods() -> None:
    for thing in OBJECTS:
        selector = thing.get("spec", {}).get("selector")
        if selector is not None:
            wanted = selector.get("matchLabels", selector)
            found = [name for name, pod in PODS.items() if wanted.items() <= pod["metadata"]["labels"].items()]
            assert len(found) == 1, _name(thing)


def test_environment_sources_exist() -> None:
    given = {(each["kind"], each["metadata"]["name"]): each for each in OBJECTS}
    for pod in PODS.values():
        for source in (each for container in pod["spec"]["containers"] for each in container.get("envFrom", ())):
            kind = "ConfigMap" if "configMapRef" in source else "Secret"
            assert (kind, next(iter(source.values()))["name"]) in given
    names = given["ConfigMap", "modelreins"]["data"]
    known = {option.environment for option in options()}
    assert {name for name in names if name.startswith("MODELREINS_")} <= known
    secret = given["Secret", "modelreins"]["stringData"]
    for name in ("CELERY_BROKER_URL", "MODELREINS_LEDGER_URL"):
        assert name not in names  # it has a password
        assert ("Service", urlsplit(secret[name]).hostname) in given


def test_redis_has_a_password_from_the_secret() -> None:
    given = {(each["kind"], each["metadata"]["name"]): each for each in OBJECTS}
    (container,) = PODS["modelreins-redis"]["spec"]["containers"]
    for variable in container["env"]:
        reference = variable["valueFrom"]["secretKeyRef"]
        assert given["Secret", reference["name"]]["stringData"][reference["key"]] == ""  # no default
    assert {variable["name"] for variable in container["env"]} == {"REDIS_PASSWORD", "REDISCLI_AUTH"}


POLICIES = {each["metadata"]["name"]: each["spec"] for each in OBJECTS if each["kind"] == "NetworkPolicy"}


def selected(selector: dict[str, Any]) -> set[str]:
    """The names of the pods that a selector matches."""
    return {name for name, pod in PODS.items() if _matches(selector, pod["metadata"]["labels"])}


def _matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    expressions = selector.get("matchExpressions", [])
    assert {each["operator"] for each in expressions} <= {"In"}
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(each["key"]) in each["values"] for each in expressions
    )


def test_pods_have_no_connections_but_those_that_are_allowed() -> None:
    nothing = POLICIES["modelreins-nothing"]
    assert selected(nothing["podSelector"]) == set(PODS)
    assert nothing["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & set(nothing)
    fleet = {"modelreins-bridge", "modelreins-worker"}
    (rule,) = POLICIES["modelreins-redis"]["ingress"]
    assert selected(POLICIES["modelreins-redis"]["podSelector"]) == {"modelreins-redis"}
    assert selected(rule["from"][0]["podSelector"]) == fleet
    (rule,) = POLICIES["modelreins-metrics"]["ingress"]
    (bridge,) = PODS["modelreins-bridge"]["spec"]["containers"]
    assert selected(POLICIES["modelreins-metrics"]["podSelector"]) == {"modelreins-bridge"}
    assert [each["port"] for each in rule["ports"]] == [each["containerPort"] for each in bridge["ports"]]
    outgoing = POLICIES["modelreins-outgoing"]
    assert selected(outgoing["podSelector"]) == fleet
    (to_redis,) = [each for each in outgoing["egress"] if "to" in each]
    assert selected(to_redis["to"][0]["podSelector"]) == {"modelreins-redis"}
    assert {port["port"] for each in outgoing["egress"] for port in each["ports"]} == {53, 443, 6379}


def test_the_token_is_a_file_that_follows_changes() -> None:
    given = {(each["kind"], each["metadata"]["name"]): each for each in OBJECTS}
    path = Path(given["ConfigMap", "modelreins"]["data"]["MODELREINS_TOKEN_FILE"])
    for name in ("modelreins-bridge", "modelreins-worker"):
        pod = PODS[name]["spec"]
        (volume,) = [each for each in pod["volumes"] if "secret" in each]
        assert path.name in given["Secret", volume["secret"]["secretName"]]["stringData"]
        (container,) = pod["containers"]
        (mount,) = [each for each in container["volumeMounts"] if each["name"] == volume["name"]]
        assert (mount["mountPath"], mount["readOnly"], "subPath" in mount) == (str(path.parent), True, False)
        # Kubernetes gives the files to this group, whose number the container's user has.
        assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]


def test_pods_have_enough_time_to_stop() -> None:
    (configuration,) = _objects("configmap.yaml")
    shutdown = float(configuration["data"]["MODELREINS_SHUTDOWN_TIMEOUT"])
    assert PODS["modelreins-bridge"]["spec"]["terminationGracePeriodSeconds"] > shutdown + Settings.timeout
    assert PODS["modelreins-worker"]["spec"]["terminationGracePeriodSeconds"] > Settings.lease


def test_probes_use_the_bridges_port() -> None:
    (bridge,) = PODS["modelreins-bridge"]["spec"]["containers"]
    (port,) = bridge["ports"]
    assert f"0.0.0.0:{port['containerPort']}" in bridge["command"]
    probes = {name: bridge[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {probe["port"] for probe in probes.values()} == {port["name"]}
    assert probes["livenessProbe"]["path"] == "/health/live"
    assert probes["readinessProbe"]["path"] == "/health/ready"


def test_kustomization_lists_all_files_and_the_image() -> None:
    (kustomization,) = _objects("kustomization.yaml")
    text = (FOLDER / "kustomization.yaml").read_text()
    listed = set(kustomization["resources"])
    assert listed | {"kustomization.yaml", "secret.example.yaml"} == {path for path in FILES if "optional" not in path}
    assert all(f"# - {path} " in text for path in FILES if "optional" in path)
    images = {container["image"] for pod in PODS.values() for container in pod["spec"]["containers"]}
    assert {image["name"] for image in kustomization["images"]} == {image for image in images if ":" not in image}


def test_scaler_uses_worker_slots() -> None:
    (scaler,) = _objects("optional/keda.yaml")
    (trigger,) = scaler["spec"]["triggers"]
    target = scaler["spec"]["scaleTargetRef"]
    (worker,) = PODS[target["name"]]["spec"]["containers"]
    assert _name({"kind": target["kind"], "metadata": target}) in map(_name, OBJECTS)
    assert trigger["metadata"]["threshold"] == worker["command"][worker["command"].index("--concurrency") + 1]
    assert scaler["spec"]["minReplicaCount"] == 1, "without a worker nothing is claimed, so nothing would be in flight"
    (configuration,) = _objects("configmap.yaml")
    assert f'worker_name="{configuration["data"]["MODELREINS_NAME"]}"' in trigger["metadata"]["query"]


def test_pod_monitor_selects_the_bridges() -> None:
    (monitor,) = _objects("optional/podmonitor.yaml")
    wanted, pod = monitor["spec"]["selector"]["matchLabels"], PODS["modelreins-bridge"]
    assert wanted.items() <= pod["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in [port["name"] for port in pod["spec"]["containers"][0]["ports"]]
    (relabeling,) = endpoint["relabelings"]
    (job,) = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert relabeling == {"targetLabel": "job", "replacement": job["job_name"]}
