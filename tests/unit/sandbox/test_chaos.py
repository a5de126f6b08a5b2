"""Rules for faults: parsing, selection, duration and corrupted responses."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mr_celery.errors import MrCeleryError
from mr_celery.sandbox import Chaos, Rule
from mr_celery.sandbox.chaos import FAULTS, ROUTES, route_of, rules_from
from mr_celery.sandbox.chaos_answers import corrupt, json_type, make_answer, wrong_types
from mr_celery.sandbox.values import MalformedError


def rules(*data: dict[str, Any]) -> list[Rule]:
    return rules_from({"rules": list(data)})[0]


def test_rules_from_reads_all_fields() -> None:
    data = {
        "seed": 7,
        "rules": [
            {"fault": "status", "status": 503, "retry_after": 2, "routes": ["claim", "close"], "rate": 0.5},
            {"fault": "hang", "delay": 0.25, "seconds": 60, "after": True},
            {"fault": "drop", "seconds": None, "delay": None},
        ],
    }
    assert rules_from(data) == (
        [
            Rule("status", status=503, retry_after=2, routes=("claim", "close"), rate=0.5),
            Rule("hang", delay=0.25, seconds=60, after=True),
            Rule("drop"),
        ],
        7,
    )
    assert rules_from({"rules": []}) == ([], None)


def test_defaults() -> None:
    (rule,) = rules({"fault": "drop"})
    assert (rule.routes, rule.rate, rule.seconds, rule.after) == (ROUTES, 1.0, None, False)
    assert [Rule(fault).delay_seconds for fault in ("hang", "trickle", "latency")] == [3600, 1, 1]
    assert Rule("hang", delay=0).delay_seconds == 0


@pytest.mark.parametrize(
    "rule", [*map(Rule, sorted({*FAULTS} - {"status"})), Rule("status", status=599, rate=0, seconds=0.5, after=True)]
)
def test_as_data_round_trip(rule: Rule) -> None:
    assert rules(json.loads(json.dumps(rule.as_data()))) == [rule]


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({}, "fault is null: it must be one of status, html, truncated, wrong_types"),
        ({"fault": "nope"}, 'fault is "nope": it must be one of status, html'),
        ({"fault": ["drop"]}, r'fault is \["drop"\]: it must be one of status, html'),
        ({"fault": "drop", "routes": []}, r"routes is \[\]: it must be some of presence, inbox, running"),
        ({"fault": "drop", "routes": "claim"}, 'routes is "claim": it must be some of presence'),
        ({"fault": "drop", "routes": ["claim", "dispatch"]}, r'routes is \["claim", "dispatch"\]: it must be some of'),
        ({"fault": "drop", "routes": [["claim"]]}, r'routes is \[\["claim"\]\]: it must be some of'),
        ({"fault": "drop", "routes": None}, "routes is null: it must be some of"),
        (
            {"fault": "empty_list", "routes": ["close"]},
            ".*: it must be some of inbox, running for the fault empty_list",
        ),
        ({"fault": "drop", "rate": 1.5}, "rate is 1.5: it must be a number from 0 to 1"),
        ({"fault": "drop", "rate": -0.1}, "rate is -0.1: "),
        ({"fault": "drop", "rate": "1"}, 'rate is "1": '),
        ({"fault": "drop", "rate": True}, "rate is true: "),
        ({"fault": "drop", "rate": None}, "rate is null: "),
        ({"fault": "drop", "rate": float("nan")}, "rate is NaN: "),
        ({"fault": "drop", "seconds": 0}, "seconds is 0: it must be a number of seconds above 0"),
        ({"fault": "drop", "seconds": "60"}, 'seconds is "60": '),
        ({"fault": "drop", "seconds": float("inf")}, "seconds is Infinity: "),
        ({"fault": "drop", "seconds": 10**400}, r"seconds is 1000.*…: "),
        ({"fault": "drop", "seconds": 10**5000}, "seconds is a value of type int that is too large to show: "),
        ({"fault": "drop", "after": 1}, "after is 1: it must be true or false"),
        ({"fault": "status"}, "status is null: it must be a whole number from 200 to 599"),
        ({"fault": "status", "status": 199}, "status is 199: "),
        ({"fault": "status", "status": 600}, "status is 600: "),
        ({"fault": "status", "status": 503.0}, "status is 503.0: "),
        ({"fault": "status", "status": True}, "status is true: "),
        ({"fault": "status", "status": 503, "retry_after": -1}, "retry_after is -1: it must be a whole number of sec"),
        ({"fault": "status", "status": 503, "retry_after": 0.5}, "retry_after is 0.5: "),
        ({"fault": "html", "status": 503}, "status is 503: it must be absent for the fault html"),
        ({"fault": "drop", "retry_after": 1}, "retry_after is 1: it must be absent for the fault drop"),
        (
            {"fault": "drop", "delay": 1},
            "delay is 1: it must be absent for the fault drop: only hang, trickle, latency",
        ),
        ({"fault": "hang", "delay": -1}, "delay is -1: it must be a number of seconds from 0"),
        ({"fault": "hang", "delay": "1"}, 'delay is "1": '),
        ({"fault": "drop", "ratio": 1}, 'unknown field "ratio": allowed are fault, routes, rate'),
    ],
)
def test_invalid_rules(rule: dict[str, Any], why: str) -> None:
    with pytest.raises(MalformedError, match=f"^rule 2: {why}"):
        rules({"fault": "drop"}, rule)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ([], r"the document is \[\]: it must be an object"),
        (None, "the document is null: it must be an object"),
        ({}, "rules is null: it must be a list"),
        ({"rules": {}}, r"rules is {}: it must be a list"),
        ({"rules": ["drop"]}, 'rule 1 is "drop": it must be an object'),
        ({"rules": [], "seed": "7"}, 'seed is "7": it must be a whole number'),
        ({"rules": [], "seed": 1.5}, "seed is 1.5: "),
        ({"rules": [], "seed": True}, "seed is true: "),
        ({"rules": [], "seeds": 7}, 'unknown field "seeds": allowed are rules and seed'),
    ],
)
def test_invalid_documents(data: Any, why: str) -> None:
    with pytest.raises(MalformedError, match=f"^{why}"):
        rules_from(data)


def test_long_values_are_shortened_in_errors() -> None:
    with pytest.raises(MalformedError) as caught:
        rules({"fault": "a\n" * 5000})
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "are not JSON"),
        (b"\xff\xfe\xfa", "are not JSON"),
        (b"[" * 100_000, "are not JSON"),
        (b'{"rules": [{"fault": "nope"}]}', 'are invalid: rule 1: fault is "nope"'),
        (b"[]", "are invalid: the document is"),
        (None, "cannot be read: No such file"),
    ],
)
def test_invalid_files(content: bytes | None, why: str, tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MrCeleryError, match=f"the faults in {path} {why}"):
        Chaos.from_file(str(path))


@pytest.mark.parametrize(
    ("method", "path", "query", "route"),
    [
        ("PUT", "/presence", "", "presence"),
        ("GET", "/presence", "", None),
        ("GET", "/my-jobs", "worker=w", "inbox"),
        ("GET", "/my-jobs", "worker=w&status=pending", "inbox"),
        ("GET", "/my-jobs", "worker=w&status=running", "running"),
        ("POST", "/jobs/12/claim", "", "claim"),
        ("POST", "/jobs/12/close", "status=running", "close"),
        ("GET", "/jobs/12", "", "job"),
        ("POST", "/artifacts/upload", "", "artifact"),
        ("POST", "/review", "", "review"),
        ("POST", "/api/v1/workers/register", "", "register"),
        *(("GET", path, "", None) for path in ("/chaos", "/health", "/jobs", "/jobs/12/events", "/s/x", "/reviews")),
        *(("POST", path, "", None) for path in ("/dispatch", "/jobs/1/abort", "/jobs/1/requeue", "/abort-all")),
        *((method, "/chaos", "", None) for method in ("PUT", "DELETE")),
        ("POST", "/reviews/1/approve", "", None),
    ],
)
def test_route_of(method: str, path: str, query: str, route: str | None) -> None:
    assert route_of(method, path, query) == route


def faults(chaos: Chaos, route: str, requests: int) -> list[str | None]:
    chosen = [chaos.choose(route) for _ in range(requests)]
    return [each and each[0].fault for each in chosen]


def test_no_rules_no_faults() -> None:
    chaos = Chaos()
    assert [chaos.choose(route) for route in ROUTES] == [None] * len(ROUTES)
    chaos.set([Rule("drop")])
    chaos.clear()
    assert [chaos.choose(route) for route in ROUTES] == [None] * len(ROUTES)
    assert chaos.counts == {}


def test_first_matching_rule_applies_and_is_counted() -> None:
    chaos = Chaos()
    chaos.set([Rule("drop", routes=("claim",)), Rule("html", rate=0), Rule("hang"), Rule("null")])
    assert faults(chaos, "claim", 3) == ["drop"] * 3
    assert faults(chaos, "close", 2) == ["hang"] * 2
    assert chaos.counts == {("claim", "drop"): 3, ("close", "hang"): 2}


def test_empty_list_applies_to_lists_only() -> None:
    chaos = Chaos()
    chaos.set([Rule("empty_list")])
    assert [route for route in ROUTES if chaos.choose(route)] == ["inbox", "running"]


def test_rates_of_several_rules() -> None:
    chaos = Chaos(seed=3)
    chaos.set([Rule("drop", rate=0.2), Rule("html", rate=0.5)])
    shares = Counter(faults(chaos, "claim", 10_000))
    assert shares["drop"] / 10_000 == pytest.approx(0.2, abs=0.03)
    assert shares["html"] / 10_000 == pytest.approx(0.4, abs=0.03)
    assert chaos.counts == {("claim", "drop"): shares["drop"], ("claim", "html"): shares["html"]}


def test_same_seed_gives_the_same_faults() -> None:
    some = [Rule("drop", rate=0.3), Rule("wrong_types", rate=0.5)]

    def choices(chaos: Chaos) -> list[Any]:
        chosen = [chaos.choose("claim") for _ in range(50)]
        return [each and (each[0].fault, each[1].random()) for each in chosen]

    first, second = Chaos(seed=5), Chaos()
    first.set(some)
    second.set(some, seed=5)
    expected = choices(first)
    assert choices(second) == expected
    assert (first.seed, second.seed) == (5, 5)
    first.set(some)
    assert choices(first) != expected, "without a seed the random generator continues"
    first.set(some, seed=5)
    assert choices(first) == expected
    unknown = Chaos()
    unknown.set(some)
    known = Chaos(unknown.seed)
    known.set(some)
    assert choices(unknown) == choices(known)


def test_rules_end_after_their_duration() -> None:
    now = 1000.0
    chaos = Chaos(clock=lambda: now)
    chaos.set([Rule("drop", seconds=10), Rule("html", seconds=20), Rule("null")])
    now += 9.5
    assert faults(chaos, "claim", 1) == ["drop"]
    assert [(rule.fault, rule.seconds) for rule in chaos.rules] == [("drop", 0.5), ("html", 10.5), ("null", None)]
    now += 0.5
    assert faults(chaos, "claim", 1) == ["html"]
    assert [rule.fault for rule in chaos.rules] == ["html", "null"]
    now += 10
    assert faults(chaos, "claim", 1) == ["null"]
    chaos.set([Rule("drop", seconds=10)])
    assert faults(chaos, "claim", 1) == ["drop"], "seconds count from when the rule was set"


JOBS = {
    "jobs": [{"id": n, "prompt": "x", "tags": ["a"], "deep": {"er": [1.5, True, None]}} for n in range(3)],
    "more": False,
}


def differences(old: Any, new: Any) -> list[tuple[str, str]]:
    if json_type(old) != json_type(new):
        return [(json_type(old), json_type(new))]
    if isinstance(old, dict):
        assert new.keys() == old.keys()
        return [each for key in old for each in differences(old[key], new[key])]
    if isinstance(old, list):
        assert len(new) == len(old)
        return [each for pair in zip(old, new, strict=True) for each in differences(*pair)]
    assert new == old
    return []


def test_wrong_types_replaces_values_at_every_depth() -> None:
    seen: Counter[tuple[str, str]] = Counter()
    for seed in range(500):
        before = json.dumps(JOBS)
        changed = wrong_types(JOBS, random.Random(seed))
        assert json.dumps(JOBS) == before
        assert json.loads(json.dumps(changed)) == changed
        found = differences(JOBS, changed)
        assert found
        seen.update(found)
    kinds = ("null", "bool", "number", "string", "list", "object")
    assert {*seen} == {(old, new) for old in kinds for new in kinds if old != new}
    assert wrong_types(JOBS, random.Random(1)) == wrong_types(JOBS, random.Random(1))


@pytest.mark.parametrize("seed", range(20))
def test_wrong_types_replaces_at_least_one_value(seed: int) -> None:
    assert differences({"success": True}, wrong_types({"success": True}, random.Random(seed)))
    assert wrong_types({}, random.Random(seed)) == {}


@pytest.mark.parametrize("status", [200, 204, 302, 304, 404, 503, 520, 599])
def test_status(status: int) -> None:
    answer = corrupt(Rule("status", status=status), make_answer(b"{}"), random.Random(1))
    headers = dict(answer.headers)
    assert answer.status == status
    assert answer.body.startswith(b"" if status in (204, 304) else str(status).encode())
    assert headers.get(b"content-length", b"0") == str(len(answer.body)).encode()
    assert b"retry-after" not in headers
