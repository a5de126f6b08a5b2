"""The dashboard: its structure, and its queries on a real Prometheus."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import yaml

from support.metrics import DEPLOY, Metric, documented, names_in
from support.servers import PrometheusServer

GRAFANA = DEPLOY / "grafana"
DASHBOARD = json.loads((GRAFANA / "dashboards/modelreins.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = {
    f"{panel['title']}: {target['legendFormat']}": target["expr"] for panel in PANELS for target in panel["targets"]
}
SCALED_OBJECT = yaml.safe_load((DEPLOY / "kubernetes/optional/keda.yaml").read_text())

BEGIN, END, STEP = 1_700_000_000, 1_700_007_200, 15
"""Times of the samples, in seconds."""

BRIDGES = {"alone": ("a",), "twice": ("a", "b")}
"""Bridges of two worker names with equal jobs and workers."""


# -- the series of an installation, made up from the documentation ------------------------------------


def _samples(metric: Metric, extra: str, number: int) -> Iterator[str]:
    """Samples of a metric: constant gauges, and steadily growing counters and histograms."""
    for moment in range(BEGIN, END + 1, STEP):
        grown = (moment - BEGIN) // STEP * number
        if metric.kind == "histogram":
            for bound, share in (("0.1", 1), ("1.0", 2), ("10.0", 4), ("+Inf", 4)):
                yield f'{metric.name}_bucket{{{extra},le="{bound}"}} {grown * share} {moment}'
            yield f"{metric.name}_count{{{extra}}} {grown * 4} {moment}"
            yield f"{metric.name}_sum{{{extra}}} {grown * 9} {moment}"
        else:
            yield f"{metric.name}{{{extra}}} {grown if metric.kind == 'counter' else number} {moment}"


def _installation() -> str:
    lines: list[str] = []
    for metric in documented().values():
        lines.append(f"# TYPE {metric.name.removesuffix('_total')} {metric.kind}")
        for name, bridges in BRIDGES.items():
            for instance in bridges:
                for number, values in enumerate(product(*metric.labels.values()), start=1):
                    labels = {
                        "worker_name": name,
                        "instance": instance,
                        **dict(zip(metric.labels, values, strict=True)),
                    }
                    extra = ",".join(f'{label}="{value}"' for label, value in labels.items())
                    lines += _samples(metric, extra, number)
    lines.append("# TYPE ALERTS gauge")
    lines += [
        f'ALERTS{{alertname="ModelReinsNoBridge",alertstate="firing",worker_name="{name}"}} 1 {END}' for name in BRIDGES
    ]
    return "\n".join([*lines, "# EOF\n"])


@pytest.fixture(scope="module")
def prometheus() -> Iterator[PrometheusServer]:
    server = PrometheusServer(_installation())
    yield server
    server.stop()


def _asked(expression: str, name: str) -> str:
    """Replace Grafana's variables in an expression."""
    asked = expression.replace("$__rate_interval", "1m").replace("$worker_name", name)
    assert "$" not in asked
    return asked


def _numbers(prometheus: PrometheusServer, expression: str, name: str) -> dict[str, float]:
    """The result of a query for one worker name: values by their other labels."""
    found = {}
    for series in prometheus.query(_asked(expression, name), END):
        labels = {label: value for label, value in series["metric"].items() if label != "worker_name"}
        found[json.dumps(labels, sort_keys=True)] = float(series["value"][1])
    return found


@pytest.mark.parametrize("title", EXPRESSIONS)
def test_query_returns_data(prometheus: PrometheusServer, title: str) -> None:
    values = _numbers(prometheus, EXPRESSIONS[title], "twice")
    assert values
    assert all(math.isfinite(value) for value in values.values())


@pytest.mark.parametrize("title", EXPRESSIONS)
def test_ledger_metrics_count_once_and_bridge_metrics_per_bridge(prometheus: PrometheusServer, title: str) -> None:
    metrics = documented()
    from_ledger = [metrics[name].from_ledger for name in names_in(EXPRESSIONS[title]) if name in metrics]
    alone, twice = (_numbers(prometheus, EXPRESSIONS[title], name) for name in ("alone", "twice"))
    if from_ledger and all(from_ledger):
        assert alone == pytest.approx(twice)
    elif any(metrics[name].kind == "counter" for name in names_in(EXPRESSIONS[title])):
        assert {labels: 2 * value for labels, value in alone.items()} == pytest.approx(twice)


def test_scaler_counts_ledger_metrics_once(prometheus: PrometheusServer) -> None:
    query = SCALED_OBJECT["spec"]["triggers"][0]["metadata"]["query"]
    found = {name: prometheus.query(query.replace("image-worker-01", name), END) for name in BRIDGES}
    values = {name: float(series["value"][1]) for name, (series,) in found.items()}
    assert values["alone"] == values["twice"] > 0


def test_adapter_gives_the_scaler_the_same_number(prometheus: PrometheusServer) -> None:
    (rule,) = yaml.safe_load((DEPLOY / "prometheus/adapter.yml").read_text())["rules"]["external"]
    scaler = yaml.safe_load((DEPLOY / "kubernetes/optional/hpa.yaml").read_text())
    (metric,) = [each["external"] for each in scaler["spec"]["metrics"]]
    (label, name), *others = metric["metric"]["selector"]["matchLabels"].items()
    assert not others
    assert prometheus.query(rule["seriesQuery"], END)
    series = metric["metric"]["name"]  # the adapter's name for a metric, where the rule has none
    assert rule["seriesQuery"].partition("{")[0] == series
    trigger = SCALED_OBJECT["spec"]["triggers"][0]["metadata"]
    assert metric["target"] == {"type": "AverageValue", "averageValue": trigger["threshold"]}
    for bridges in BRIDGES:
        asked = (
            rule["metricsQuery"].replace("<<.Series>>", series).replace("<<.LabelMatchers>>", f'{label}="{bridges}"')
        )
        assert "<<" not in asked
        (found,) = prometheus.query(asked, END)
        (wanted,) = prometheus.query(trigger["query"].replace(name, bridges), END)
        assert found["value"] == wanted["value"]


# -- its form ------------------------------------------------------------------------------------------


def test_file_is_up_to_date() -> None:
    tool = DEPLOY.parent / "tools/dashboard.py"
    command = [sys.executable, "-c", f"import runpy; print(runpy.run_path({str(tool)!r})['text'](), end='')"]
    written = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert (GRAFANA / "dashboards/modelreins.json").read_text() == written


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_panels_have_title_description_unit_and_datasource(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    for part in (panel, *panel["targets"]):
        assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    references = [target["refId"] for target in panel["targets"]]
    assert len(set(references)) == len(references)


def test_panels_fill_rows_without_overlap() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for cell in product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])):
            assert cell not in taken, f"{panel['title']} lies over {taken[cell]}"
            taken[cell] = panel["title"]
    bottom = max(y for _, y in taken) + 1
    assert len(taken) == 24 * bottom
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_titles_are_unique() -> None:
    titles = [panel["title"] for panel in DASHBOARD["panels"]]
    assert len(set(titles)) == len(titles)


def test_compose_mounts_dashboard_and_datasource() -> None:
    services = yaml.safe_load((DEPLOY.parent / "docker-compose.yml").read_text())["services"]
    places = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/modelreins.yml").read_text())["providers"]
    assert provider["options"]["path"] == places["./deploy/grafana/dashboards"]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{places['./deploy/grafana/dashboards']}/modelreins.json"
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    scraping = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == scraping["global"]["scrape_interval"]
