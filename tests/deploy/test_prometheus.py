"""The alerts and the scrape configuration, checked by Prometheus' own tools."""

from __future__ import annotations

import re
import subprocess

import pytest
import yaml

from support.metrics import DEPLOY, PAGE, documented, names_in, used_in_deploy

PROMETHEUS = DEPLOY / "prometheus"
ALERTS = [
    rule for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
SERIES = re.compile(r"series: '(?P<name>\w+)\{(?P<labels>[^}]*)\}'")


@pytest.mark.parametrize(
    "arguments",
    [["check", "config", "prometheus.yml"], ["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]],
    ids=" ".join,
)
def test_promtool_accepts_the_files(arguments: list[str]) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_alerts_fire_in_tests() -> None:
    tests = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    fired = {
        name
        for test in tests
        for check in test.get("promql_expr_test", ())
        for name in re.findall(r'alertname="(\w+)"', str([check["expr"], check["exp_samples"]]))
    }
    fired |= {
        check["alertname"] for test in tests for check in test.get("alert_rule_test", ()) if check.get("exp_alerts")
    }
    assert fired == {rule["alert"] for rule in ALERTS}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_alerts_have_summary_severity_and_action(rule: dict[str, object]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"] in ({"severity": "critical"}, {"severity": "warning"})
    assert isinstance(rule["annotations"], dict)
    assert set(rule["annotations"]) == {"summary", "description"}


def test_alerts_are_documented_with_their_severity() -> None:
    rows = re.findall(r"^\| `(ModelReins\w+)` \| (\w+) \|", PAGE.read_text(), re.MULTILINE)
    assert rows == [(rule["alert"], rule["labels"]["severity"]) for rule in ALERTS]


def test_documented_metrics_are_used() -> None:
    metrics = documented()
    assert names_in(PAGE.read_text()) == set(metrics)
    used = used_in_deploy()
    unknown = {file: names - set(metrics) for file, names in used.items() if names - set(metrics)}
    assert unknown == {}
    assert set().union(*used.values()) == set(metrics)


def test_alert_tests_use_documented_series() -> None:
    metrics = documented()
    found = list(SERIES.finditer((PROMETHEUS / "alerts_test.yml").read_text()))
    assert len(found) > 50
    for match in found:
        if match["name"] == "up":
            continue
        metric, labels = metrics[match["name"]], dict(re.findall(r'(\w+)="([^"]*)"', match["labels"]))
        assert set(labels) - {"instance"} == {"worker_name", *metric.labels}, match[0]
        for label, values in metric.labels.items():
            assert labels[label] in values or len(values) == 1, match[0]
