"""Writes the Grafana dashboard to deploy/ from the list of panels below.

All bridges of a worker name report the same values from the ledger: combine them with ``max by``, never with
``sum``. Values of the bridges themselves are summed, or shown for each bridge.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).parent.parent / "deploy/grafana/dashboards/modelreins.json"
WIDTH = 24
"""Number of columns of Grafana's grid."""

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
NAME = 'worker_name=~"$worker_name"'
CLAIMED = 'state=~"claimed|sent|running"'
PER_MINUTE = "cpm"

GREEN, ORANGE, RED, BLUE, GREY = "green", "orange", "red", "blue", "#8e8e8e"
STATES = {"admitted": GREY, "claimed": "light-blue", "sent": BLUE, "running": GREEN, "finished": "purple"}
STATUSES = {"done": GREEN, "escalated": ORANGE, "failed": RED}
DELIVERIES = {"delivered": GREEN, "superseded": GREY, "put_off": ORANGE, "refused": RED}

Panel = dict[str, Any]


# -- queries -----------------------------------------------------------------------------------------


def of(metric: str, *matchers: str) -> str:
    """A selector for a metric of the selected worker names."""
    return f"{metric}{{{', '.join((NAME, *matchers))}}}"


def ledger(expression: str, *labels: str) -> str:
    """Combine the equal values of all bridges of a worker name."""
    return f"max by ({', '.join(('worker_name', *labels))}) ({expression})"


def summed(expression: str, *labels: str) -> str:
    by = f" by ({', '.join(labels)})" if labels else ""
    return f"sum{by} ({expression})"


def per_minute(metric: str, *labels: str) -> str:
    """Increase per minute of a counter of the ledger, over all selected worker names."""
    return "60 * " + summed(ledger(f"rate({of(metric)}[$__rate_interval])", *labels), *labels)


def per_minute_of_bridges(metric: str, *labels: str) -> str:
    """Increase per minute of a counter of the bridges, over all bridges."""
    return "60 * " + summed(f"rate({of(metric)}[$__rate_interval])", *labels)


def quantile(share: float, metric: str, *labels: str) -> str:
    """A quantile of a histogram of the ledger, over all selected worker names."""
    buckets = ledger(f"rate({of(metric + '_bucket')}[$__rate_interval])", "le", *labels)
    return f"histogram_quantile({share}, {summed(buckets, 'le', *labels)})"


def targets(queries: dict[str, str], *, instant: bool = False) -> list[dict[str, Any]]:
    """Make Grafana's targets from queries by legend."""
    return [
        {
            "refId": chr(ord("A") + index),
            "datasource": DATASOURCE,
            "expr": expression,
            "legendFormat": legend,
            "instant": instant,
            "range": not instant,
            **({"format": "table"} if instant and not legend else {}),
        }
        for index, (legend, expression) in enumerate(queries.items())
    ]


# -- panels ------------------------------------------------------------------------------------------


def panel(kind: str, title: str, about: str, width: int, height: int, **parts: Any) -> Panel:
    return {
        "type": kind,
        "title": title,
        "description": about,
        "datasource": DATASOURCE,
        "gridPos": {"w": width, "h": height},
        **parts,
    }


def stat(
    title: str,
    about: str,
    expression: str,
    *,
    unit: str = "short",
    steps: dict[float, str] | None = None,
    words: dict[int, tuple[str, str]] | None = None,
) -> Panel:
    """A panel with one number for each series.

    Args:
        title: the title.
        about: the description.
        expression: the query.
        unit: the unit of the number.
        steps: colours by the value from which they apply; by default no colour.
        words: texts with colours that replace values.
    """
    levels: list[dict[str, Any]] = [
        {"color": "text", "value": None},
        *({"color": color, "value": at} for at, color in (steps or {}).items()),
    ]
    texts = {str(value): {"text": text, "color": color} for value, (text, color) in (words or {}).items()}
    defaults = {
        "unit": unit,
        "decimals": 0,
        "noValue": "–",
        "color": {"mode": "thresholds"},
        "thresholds": {"mode": "absolute", "steps": levels},
        "mappings": [{"type": "value", "options": texts}] if texts else [],
    }
    return panel(
        "stat",
        title,
        about,
        3,
        4,
        targets=targets({"{{worker_name}}": expression}, instant=True),
        fieldConfig={"defaults": defaults, "overrides": []},
        options={
            "colorMode": "value" if steps or words else "none",
            "graphMode": "none",
            "justifyMode": "center",
            "textMode": "auto",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        },
    )


def graph(
    title: str,
    about: str,
    queries: dict[str, str],
    *,
    unit: str,
    width: int = 8,
    stacked: bool = False,
    colors: dict[str, str] | None = None,
    dashed: tuple[str, ...] = (),
) -> Panel:
    """A panel with lines over time.

    Args:
        title: the title.
        about: the description.
        queries: the queries, by legend.
        unit: the unit of the values.
        width: the width in columns.
        stacked: put the lines on top of each other.
        colors: colours by legend; by default Grafana chooses them.
        dashed: legends of limits, which are dashed and never stacked.
    """
    overrides = [
        {
            "matcher": {"id": "byName", "options": legend},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": color}}],
        }
        for legend, color in (colors or {}).items()
    ]
    for legend in dashed:
        properties: list[dict[str, Any]] = [
            {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 8]}},
            {"id": "custom.fillOpacity", "value": 0},
            {"id": "custom.stacking", "value": {"mode": "none"}},
            {"id": "color", "value": {"mode": "fixed", "fixedColor": "text"}},
        ]
        overrides.append({"matcher": {"id": "byName", "options": legend}, "properties": properties})
    custom = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 40 if stacked else 5,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
    }
    defaults = {"unit": unit, "min": 0, "color": {"mode": "palette-classic-by-name"}, "custom": custom}
    return panel(
        "timeseries",
        title,
        about,
        width,
        8,
        targets=targets(queries),
        fieldConfig={"defaults": defaults, "overrides": overrides},
        options={
            "legend": {
                "displayMode": "table",
                "placement": "bottom",
                "showLegend": True,
                "calcs": ["lastNotNull", "max"],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    )


def table(title: str, about: str, expression: str, columns: dict[str, str], *, width: int, empty: str) -> Panel:
    """A table with the labels of the current results of a query.

    Args:
        title: the title.
        about: the description.
        expression: the query.
        columns: the labels that are shown, with their headings.
        width: the width in columns.
        empty: the text that is shown if there are no results.
    """
    return panel(
        "table",
        title,
        about,
        width,
        8,
        targets=targets({"": expression}, instant=True),
        fieldConfig={"defaults": {"unit": "string", "noValue": empty, "custom": {"align": "left"}}, "overrides": []},
        options={"showHeader": True, "cellHeight": "sm"},
        transformations=[
            {"id": "filterFieldsByName", "options": {"include": {"names": list(columns)}}},
            {
                "id": "organize",
                "options": {"renameByName": columns, "indexByName": {name: at for at, name in enumerate(columns)}},
            },
        ],
    )


ROWS: dict[str, list[Panel]] = {
    "Now": [
        stat(
            "Claiming",
            "Paused: nothing is claimed until `celery -A proj modelreins resume`.",
            ledger(of("modelreins_paused")),
            words={0: ("yes", GREEN), 1: ("paused", ORANGE)},
        ),
        stat(
            "Token",
            "Rejected: nothing is claimed or delivered until the server accepts the token, or bridges and workers are "
            "restarted with a new one.",
            f"max by (worker_name) ({of('modelreins_token_rejected')})",
            words={0: ("accepted", GREEN), 1: ("rejected", RED)},
        ),
        stat(
            "Presence",
            "Time since the server last accepted a presence report of any bridge of the worker name.",
            f"min by (worker_name) ({of('modelreins_presence_age_seconds')})",
            unit="s",
            steps={20: ORANGE, 60: RED},
        ),
        stat("Bridges online", "Bridges of the worker name.", ledger(of("modelreins_bridges_online"))),
        stat(
            "Workers online",
            "Celery workers that run jobs. Without one, nothing is claimed.",
            ledger(of("modelreins_workers_online")),
        ),
        stat("Slots", "Total concurrency of the workers.", ledger(of("modelreins_worker_slots"))),
        table(
            "Alerts",
            "Firing alerts of deploy/prometheus/alerts.yml.",
            'ALERTS{alertname=~"ModelReins.+", alertstate="firing"}',
            {"alertname": "alert", "worker_name": "worker name", "severity": "severity"},
            width=6,
            empty="none",
        ),
        stat(
            "In flight",
            "Claimed jobs that are not finished.",
            summed(ledger(of("modelreins_jobs_in_flight", CLAIMED), "state"), "worker_name"),
        ),
        stat("Capacity", "Maximum number of jobs in flight.", ledger(of("modelreins_capacity_jobs"))),
        stat(
            "Pending",
            "Unclaimed jobs on the server at the bridges' last poll.",
            f"max by (worker_name) ({of('modelreins_pending_jobs')})",
        ),
        stat(
            "Oldest waiting",
            "Age of the claimed job that has waited longest for a worker.",
            ledger(of("modelreins_oldest_waiting_seconds")),
            unit="s",
            steps={120: ORANGE, 600: RED},
        ),
        stat(
            "Oldest undelivered",
            "Age of the oldest outcome that the server has not accepted yet.",
            ledger(of("modelreins_oldest_undelivered_seconds")),
            unit="s",
            steps={60: ORANGE, 600: RED},
        ),
        stat(
            "Lost runs, last hour",
            "Runs that ended without a result: killed processes, unresponsive workers. The jobs run again.",
            summed(ledger(f"increase({of('modelreins_runs_lost_total')}[1h])", "cause"), "worker_name"),
            steps={1: ORANGE},
        ),
    ],
    "Work": [
        graph(
            "In flight by state",
            "claimed: not sent yet; sent: not started by a worker yet; finished: the outcome is being delivered.",
            {
                "{{state}}": summed(ledger(of("modelreins_jobs_in_flight"), "state"), "state"),
                "capacity": summed(ledger(of("modelreins_capacity_jobs"))),
            },
            unit="short",
            width=12,
            stacked=True,
            colors=STATES,
            dashed=("capacity",),
        ),
        graph(
            "Waiting",
            "Age of the job that has waited longest for a worker, and of the oldest undelivered outcome.",
            {
                "no worker yet, {{worker_name}}": ledger(of("modelreins_oldest_waiting_seconds")),
                "not delivered yet, {{worker_name}}": ledger(of("modelreins_oldest_undelivered_seconds")),
            },
            unit="s",
            width=12,
        ),
        graph(
            "Jobs by status",
            "Recorded outcomes per minute.",
            {"{{status}}": per_minute("modelreins_jobs_finished_total", "status")},
            unit=PER_MINUTE,
            stacked=True,
            colors=STATUSES,
        ),
        graph(
            "Jobs by task",
            "Recorded outcomes per minute.",
            {"{{task}}": per_minute("modelreins_jobs_finished_total", "task")},
            unit=PER_MINUTE,
            stacked=True,
        ),
        graph(
            "Jobs in and out",
            "Claimed; adopted: running on the server under this name, unknown to the ledger; aborted by an operator.",
            {
                "claimed": per_minute("modelreins_jobs_claimed_total"),
                "adopted": per_minute("modelreins_jobs_adopted_total"),
                "aborted": per_minute("modelreins_jobs_aborted_total"),
            },
            unit=PER_MINUTE,
        ),
    ],
    "Durations": [
        graph(
            "Pick-up",
            "Time from the start of the claim to the start of the handler.",
            {
                "median": quantile(0.5, "modelreins_pickup_seconds"),
                "95 of 100": quantile(0.95, "modelreins_pickup_seconds"),
            },
            unit="s",
        ),
        graph(
            "Run",
            "Duration of handlers.",
            {
                "{{task}}, median": quantile(0.5, "modelreins_run_duration_seconds", "task"),
                "{{task}}, 95 of 100": quantile(0.95, "modelreins_run_duration_seconds", "task"),
            },
            unit="s",
        ),
        graph(
            "Delivery",
            "Time from the recorded outcome to the close on the server, including uploads and waiting.",
            {
                "median": quantile(0.5, "modelreins_delivery_duration_seconds"),
                "95 of 100": quantile(0.95, "modelreins_delivery_duration_seconds"),
            },
            unit="s",
        ),
    ],
    "Problems": [
        graph(
            "Share of failed jobs by task",
            "Among the outcomes recorded in the last 30 minutes.",
            {
                "{{task}}": " / ".join(
                    summed(ledger(f"increase({of(metric, *matchers)}[30m])", "task", "status"), "task")
                    for metric, *matchers in (
                        ("modelreins_jobs_finished_total", 'status="failed"'),
                        ("modelreins_jobs_finished_total",),
                    )
                )
            },
            unit="percentunit",
        ),
        graph(
            "Lost runs and lost messages",
            "process: a pool process died; lease: a worker went silent; sent again: the message was lost.",
            {
                "run lost, {{cause}}": per_minute("modelreins_runs_lost_total", "cause"),
                "sent again": per_minute("modelreins_resends_total"),
            },
            unit=PER_MINUTE,
        ),
        graph(
            "Deliveries by outcome",
            "put_off: tried again later; superseded: someone else closed the job; refused: the server does not accept "
            "the result.",
            {"{{outcome}}": per_minute("modelreins_deliveries_total", "outcome")},
            unit=PER_MINUTE,
            stacked=True,
            colors=DELIVERIES,
        ),
        graph(
            "Errors that postponed deliveries",
            "By route and HTTP status; none: there was no answer. Includes deliveries by workers.",
            {"{{route}} {{status}}": per_minute("modelreins_delivery_errors_total", "route", "status")},
            unit=PER_MINUTE,
        ),
        graph(
            "Failed requests of the bridges",
            "By route and HTTP status; none: there was no answer.",
            {"{{route}} {{status}}": per_minute_of_bridges("modelreins_server_errors_total", "route", "status")},
            unit=PER_MINUTE,
        ),
        graph(
            "Claim requests",
            "conflict: someone else claimed the job first; unclear: no usable answer, settled by the server's lists.",
            {"{{result}}": per_minute_of_bridges("modelreins_claim_requests_total", "result")},
            unit=PER_MINUTE,
            stacked=True,
            colors={"claimed": GREEN, "conflict": GREY, "unclear": ORANGE},
        ),
    ],
    "Fleet": [
        graph(
            "Workers and slots",
            "Celery workers that run jobs, and their total concurrency.",
            {
                "workers, {{worker_name}}": ledger(of("modelreins_workers_online")),
                "slots, {{worker_name}}": ledger(of("modelreins_worker_slots")),
            },
            unit="short",
        ),
        graph(
            "Presence by bridge",
            "Time since the server last accepted a presence report of this bridge.",
            {"{{instance}}, {{worker_name}}": of("modelreins_presence_age_seconds")},
            unit="s",
        ),
        table(
            "Bridges",
            "Bridges that Prometheus can scrape.",
            of("modelreins_bridge_info"),
            {"instance": "bridge", "worker_name": "worker name", "version": "version"},
            width=8,
            empty="none",
        ),
    ],
}


# -- the dashboard -----------------------------------------------------------------------------------


def placed(rows: dict[str, list[Panel]]) -> list[Panel]:
    """Number the panels and place them from left to right, in rows."""
    found: list[Panel] = []
    bottom = 0
    for title, panels in rows.items():
        row = {"type": "row", "title": title, "collapsed": False, "panels": []}
        found.append({**row, "gridPos": {"x": 0, "y": bottom, "w": WIDTH, "h": 1}})
        heights = [bottom + 1] * WIDTH  # the occupied height of each column
        for each in panels:
            width, height = each["gridPos"]["w"], each["gridPos"]["h"]
            x = min(range(WIDTH - width + 1), key=lambda left: (max(heights[left : left + width]), left))
            y = max(heights[x : x + width])
            heights[x : x + width] = [y + height] * width
            found.append({**each, "gridPos": {"x": x, "y": y, "w": width, "h": height}})
        bottom = max(heights)
    return [{"id": number, **each} for number, each in enumerate(found, start=1)]


def dashboard() -> dict[str, Any]:
    """The dashboard in Grafana's format."""
    variables = [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        {
            "name": "worker_name",
            "label": "worker name",
            "type": "query",
            "datasource": DATASOURCE,
            "query": {"query": "label_values(modelreins_bridge_info, worker_name)", "refId": "names"},
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".+",
            "current": {"text": ["All"], "value": ["$__all"]},
        },
    ]
    return {
        "uid": "modelreins",
        "title": "ModelReins",
        "description": "Bridges, jobs and workers of mr-celery.",
        "tags": ["modelreins", "celery"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "graphTooltip": 1,  # shared crosshair
        "templating": {"list": variables},
        "annotations": {"list": []},
        "panels": placed(ROWS),
    }


def text() -> str:
    """The content of the dashboard's file."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    DASHBOARD.write_text(text())
