"""Writes the Grafana dashboard into deploy/, from the list of its panels below.

What comes from the ledger is the same on each bridge of a worker name: it is put together with ``max by``, never with
``sum``. What a bridge tells of itself is summed, or shown for each bridge.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).parent.parent / "deploy/grafana/dashboards/modelreins.json"
WIDTH = 24
"""Columns of Grafana's grid."""

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
    """A metric of the chosen worker names."""
    return f"{metric}{{{', '.join((NAME, *matchers))}}}"


def ledger(expression: str, *labels: str) -> str:
    """What all bridges of a name tell, once."""
    return f"max by ({', '.join(('worker_name', *labels))}) ({expression})"


def summed(expression: str, *labels: str) -> str:
    by = f" by ({', '.join(labels)})" if labels else ""
    return f"sum{by} ({expression})"


def per_minute(metric: str, *labels: str) -> str:
    """How much a counter of the ledger grows in a minute, over all chosen names."""
    return "60 * " + summed(ledger(f"rate({of(metric)}[$__rate_interval])", *labels), *labels)


def per_minute_of_bridges(metric: str, *labels: str) -> str:
    """How much a counter of the bridges' own grows in a minute, over all bridges."""
    return "60 * " + summed(f"rate({of(metric)}[$__rate_interval])", *labels)


def quantile(share: float, metric: str, *labels: str) -> str:
    """A quantile of a histogram of the ledger, over all chosen names."""
    buckets = ledger(f"rate({of(metric + '_bucket')}[$__rate_interval])", "le", *labels)
    return f"histogram_quantile({share}, {summed(buckets, 'le', *labels)})"


def targets(queries: dict[str, str], *, instant: bool = False) -> list[dict[str, Any]]:
    """Queries by their legend."""
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
    """One number, or one a worker name.

    Args:
        title: what it is.
        about: its explanation.
        expression: its query.
        unit: of the number.
        steps: the colours from these values on; without them it has none.
        words: texts with their colours in place of values.
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
    """Lines over time.

    Args:
        title: what it shows.
        about: its explanation.
        queries: by legend.
        unit: of the values.
        width: in columns.
        stacked: put the lines on top of each other.
        colors: by legend; others get one by their name.
        dashed: the legends whose lines are limits: dashed, and never stacked.
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
    """The labels of what a query finds now, as a table.

    Args:
        title: what it shows.
        about: its explanation.
        expression: the query.
        columns: the labels that are shown, with their headings.
        width: in columns.
        empty: shown where there is nothing.
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
            "Paused: it claims nothing until `celery -A proj modelreins resume`.",
            ledger(of("modelreins_paused")),
            words={0: ("yes", GREEN), 1: ("paused", ORANGE)},
        ),
        stat(
            "Token",
            "Refused: nothing is claimed or delivered until the server takes the token, or bridges and workers are "
            "restarted with a new one.",
            f"max by (worker_name) ({of('modelreins_token_rejected')})",
            words={0: ("accepted", GREEN), 1: ("refused", RED)},
        ),
        stat(
            "Presence",
            "Since the server last accepted a presence report of any bridge of the name.",
            f"min by (worker_name) ({of('modelreins_presence_age_seconds')})",
            unit="s",
            steps={20: ORANGE, 60: RED},
        ),
        stat("Bridges online", "Bridges that work for the name.", ledger(of("modelreins_bridges_online"))),
        stat(
            "Workers online",
            "Celery workers that take jobs. Without one nothing is claimed.",
            ledger(of("modelreins_workers_online")),
        ),
        stat("Slots", "The workers' concurrency in all.", ledger(of("modelreins_worker_slots"))),
        table(
            "Alerts",
            "What fires now, from deploy/prometheus/alerts.yml.",
            'ALERTS{alertname=~"ModelReins.+", alertstate="firing"}',
            {"alertname": "alert", "worker_name": "worker name", "severity": "severity"},
            width=6,
            empty="none",
        ),
        stat(
            "In flight",
            "Jobs that are claimed and not finished.",
            summed(ledger(of("modelreins_jobs_in_flight", CLAIMED), "state"), "worker_name"),
        ),
        stat("Capacity", "How many jobs may be in flight.", ledger(of("modelreins_capacity_jobs"))),
        stat(
            "Pending",
            "Jobs on the server that nobody has claimed yet, at the bridges' last look.",
            f"max by (worker_name) ({of('modelreins_pending_jobs')})",
        ),
        stat(
            "Oldest waiting",
            "How long the longest waiting claimed job has waited for a worker to start it.",
            ledger(of("modelreins_oldest_waiting_seconds")),
            unit="s",
            steps={120: ORANGE, 600: RED},
        ),
        stat(
            "Oldest undelivered",
            "How long the oldest outcome has waited for the server to take it.",
            ledger(of("modelreins_oldest_undelivered_seconds")),
            unit="s",
            steps={60: ORANGE, 600: RED},
        ),
        stat(
            "Lost runs, last hour",
            "Runs that ended without a result: killed processes, silent workers. They are run again.",
            summed(ledger(f"increase({of('modelreins_runs_lost_total')}[1h])", "cause"), "worker_name"),
            steps={1: ORANGE},
        ),
    ],
    "Work": [
        graph(
            "In flight by state",
            "claimed: not sent yet; sent: no worker has started it; finished: its outcome is being delivered.",
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
            "The age of the longest waiting job without a worker, and of the oldest outcome that is not delivered.",
            {
                "no worker yet, {{worker_name}}": ledger(of("modelreins_oldest_waiting_seconds")),
                "not delivered yet, {{worker_name}}": ledger(of("modelreins_oldest_undelivered_seconds")),
            },
            unit="s",
            width=12,
        ),
        graph(
            "Jobs by how they ended",
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
    "How long it takes": [
        graph(
            "Pick-up",
            "From the beginning of the claim to the start of the handler.",
            {
                "median": quantile(0.5, "modelreins_pickup_seconds"),
                "95 of 100": quantile(0.95, "modelreins_pickup_seconds"),
            },
            unit="s",
        ),
        graph(
            "Run",
            "How long handlers run.",
            {
                "{{task}}, median": quantile(0.5, "modelreins_run_duration_seconds", "task"),
                "{{task}}, 95 of 100": quantile(0.95, "modelreins_run_duration_seconds", "task"),
            },
            unit="s",
        ),
        graph(
            "Delivery",
            "From the recorded outcome to the close on the server, uploads and waiting included.",
            {
                "median": quantile(0.5, "modelreins_delivery_duration_seconds"),
                "95 of 100": quantile(0.95, "modelreins_delivery_duration_seconds"),
            },
            unit="s",
        ),
    ],
    "What goes wrong": [
        graph(
            "Failed jobs, share by task",
            "Of the outcomes recorded within the last 30 minutes.",
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
            "process: a pool process died; lease: a worker went silent; sent again: the broker lost the message.",
            {
                "run lost, {{cause}}": per_minute("modelreins_runs_lost_total", "cause"),
                "sent again": per_minute("modelreins_resends_total"),
            },
            unit=PER_MINUTE,
        ),
        graph(
            "Deliveries by outcome",
            "put_off: tried again later; superseded: somebody else closed the job; refused: the server does not take "
            "what was made.",
            {"{{outcome}}": per_minute("modelreins_deliveries_total", "outcome")},
            unit=PER_MINUTE,
            stacked=True,
            colors=DELIVERIES,
        ),
        graph(
            "What put deliveries off",
            "By route and the server's answer; none: there was no answer. Deliveries of workers are included.",
            {"{{route}} {{status}}": per_minute("modelreins_delivery_errors_total", "route", "status")},
            unit=PER_MINUTE,
        ),
        graph(
            "Failed requests of the bridges",
            "By route and the server's answer; none: there was no answer.",
            {"{{route}} {{status}}": per_minute_of_bridges("modelreins_server_errors_total", "route", "status")},
            unit=PER_MINUTE,
        ),
        graph(
            "Claim requests",
            "conflict: somebody else was quicker; unclear: no usable answer, settled by the server's lists.",
            {"{{result}}": per_minute_of_bridges("modelreins_claim_requests_total", "result")},
            unit=PER_MINUTE,
            stacked=True,
            colors={"claimed": GREEN, "conflict": GREY, "unclear": ORANGE},
        ),
    ],
    "Fleet": [
        graph(
            "Workers and slots",
            "Celery workers that take jobs, and their concurrency in all.",
            {
                "workers, {{worker_name}}": ledger(of("modelreins_workers_online")),
                "slots, {{worker_name}}": ledger(of("modelreins_worker_slots")),
            },
            unit="short",
        ),
        graph(
            "Presence by bridge",
            "Since the server last accepted a presence report of this bridge.",
            {"{{instance}}, {{worker_name}}": of("modelreins_presence_age_seconds")},
            unit="s",
        ),
        table(
            "Bridges",
            "The bridges that Prometheus reaches.",
            of("modelreins_bridge_info"),
            {"instance": "bridge", "worker_name": "worker name", "version": "version"},
            width=8,
            empty="none",
        ),
    ],
}


# -- the dashboard -----------------------------------------------------------------------------------


def placed(rows: dict[str, list[Panel]]) -> list[Panel]:
    """All panels with their numbers and places: from left to right, a new line where one is full."""
    found: list[Panel] = []
    bottom = 0
    for title, panels in rows.items():
        row = {"type": "row", "title": title, "collapsed": False, "panels": []}
        found.append({**row, "gridPos": {"x": 0, "y": bottom, "w": WIDTH, "h": 1}})
        heights = [bottom + 1] * WIDTH  # how far each column is taken
        for each in panels:
            width, height = each["gridPos"]["w"], each["gridPos"]["h"]
            x = min(range(WIDTH - width + 1), key=lambda left: (max(heights[left : left + width]), left))
            y = max(heights[x : x + width])
            heights[x : x + width] = [y + height] * width
            found.append({**each, "gridPos": {"x": x, "y": y, "w": width, "h": height}})
        bottom = max(heights)
    return [{"id": number, **each} for number, each in enumerate(found, start=1)]


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
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
        "graphTooltip": 1,  # one cross-hair in all panels
        "templating": {"list": variables},
        "annotations": {"list": []},
        "panels": placed(ROWS),
    }


def text() -> str:
    """The dashboard's file."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    DASHBOARD.write_text(text())
