"""The bridge's pages have bounded labels and printable texts, whatever the server, Redis and other hosts write."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mr_celery.bridge.state import State
from mr_celery.errors import ROUTE_LABELS, STATUS_LABELS, WorkerError
from mr_celery.ledger import Node
from mr_celery.operations.http import _Pages
from support.hostile import EVERYTHING, unsafe
from support.ledgers import INSIDE, LATER, BridgeHarness, make_harness

LABELS = EVERYTHING + '"} 1\nmodelreins_forged_total{a="b'


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> BridgeHarness:
    made = make_harness(monkeypatch, worker_online=False)
    made.context = replace(made.context, settings=replace(made.context.settings, ledger_url=INSIDE))
    return made


def pages_of(harness: BridgeHarness, words: str = EVERYTHING) -> _Pages:
    bridge: Any = SimpleNamespace(
        context=harness.context,
        states=(State("no_server", words, words),),
        unwell=lambda: {words: words},
        unready=lambda: {words: words},
    )
    return _Pages([bridge])


def metrics(harness: BridgeHarness, words: str = EVERYTHING) -> str:
    request: Any = None
    return bytes(asyncio.run(pages_of(harness, words).metrics(request)).body).decode()


def label_sets(exposition: str, metric: str) -> set[tuple[str, str]]:
    return {
        (sample.labels["route"], sample.labels["status"])
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
        if sample.name == f"modelreins_{metric}_total"
    }


def failed(route: str, status: int | None) -> WorkerError:
    error = WorkerError("…", status=status)
    error.route = route
    return error


def test_any_status_of_the_server_has_one_of_a_bounded_set_of_labels(harness: BridgeHarness) -> None:
    counters = harness.context.counters
    for route in ROUTE_LABELS:
        for status in (None, *range(100, 1000), 10**6, -1):
            counters.error(failed(route, status))
    assert len(counters.errors) == len(ROUTE_LABELS) * (len(STATUS_LABELS) + 1)
    found = label_sets(metrics(harness), "server_errors")
    assert found == {(route, status) for route in ROUTE_LABELS for status in (*STATUS_LABELS, "other")}


def test_usual_statuses_keep_their_labels() -> None:
    assert [failed("close", status).label for status in (None, 503, 418, 299)] == [
        "close none",
        "close 503",
        "close other",
        "close other",
    ]
    assert failed("", 503).label == ""
    assert failed("…\n", 503).label == "other 503"


def test_what_redis_has_cannot_add_labels_or_lines(harness: BridgeHarness) -> None:
    labels = LABELS.encode(errors="replace").decode()
    for number in range(100):
        harness.kit.redis.hincrby(harness.kit.key("stats"), f"errors:{labels}{number}", 1)
        harness.kit.redis.hincrby(harness.kit.key("stats"), f"errors:close {number}{labels}", 1)
        harness.kit.redis.hincrby(harness.kit.key("stats"), f"finished:done:{labels}{number}", 1)
    harness.kit.redis.hincrby(harness.kit.key("stats"), b"errors:\xff", 1)
    harness.fleet.announce(Node(labels, 1, (labels,), (labels,), labels), seconds=LATER)
    exposition = metrics(harness, LABELS)
    assert label_sets(exposition, "delivery_errors") == {("other", "other"), ("close", "other")}
    assert "forged" not in exposition
    assert unsafe(exposition) == []


def test_names_of_workers_are_printable_labels(harness: BridgeHarness) -> None:
    name = LABELS.encode(errors="replace").decode()
    harness.context = replace(harness.context, settings=replace(harness.context.settings, name=name))
    exposition = metrics(harness)
    assert 'worker_name="begin' in exposition
    assert unsafe(exposition) == []
    assert not any(line.startswith("modelreins_forged") for line in exposition.splitlines())


@pytest.mark.parametrize("page", ["live", "ready"])
def test_health_is_json_in_ascii(harness: BridgeHarness, page: str) -> None:
    response = asyncio.run(getattr(pages_of(harness), page)(None))
    body = bytes(response.body).decode()
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/json"
    assert unsafe(body) == []
    assert body.isascii()
    assert json.loads(body)["trouble"]["w"] == {EVERYTHING: EVERYTHING}
