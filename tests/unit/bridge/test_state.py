"""The state of a worker name is derived from facts."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mr_celery.bridge.state import KINDS, WRONG, Facts, ledger_advice, states
from mr_celery.bridge.waiting import ADVICE, NO_FAULT, REASONS
from mr_celery.ledger import BridgeProcess, Node, Nodes, Pause, Trouble, Waiting

NOW = 10_000.0
ROUTES = {("acme.tasks.thumbnail", "images")}
NODE = Node("celery@a", 2, ("celery", "images"), ("acme.tasks.thumbnail",))


def bridge(name: str = "host:1", **changes: Any) -> BridgeProcess:
    known: dict[str, Any] = {"at": NOW - 1.0, "answer_age": 0.5, "pending": 0, "pending_age": 1.0}
    return BridgeProcess(name, "host", "1.0", 60.0, **{**known, **changes})


WELL = Facts(
    now=NOW, bridges=(bridge(),), nodes=Nodes([NODE]), routes=ROUTES, runnable=1, taken=1, capacity=4, in_flight=1
)
QUEUE_WAITS = Waiting(
    "no_queue", "2 jobs wait for acme.tasks.thumbnail: no online worker consumes queue 'images'", 2, 5.0
)
AWAY = Trouble("GET /my-jobs: [Errno 111] Connection refused", 75.0)

CASES: list[tuple[str, dict[str, Any], str]] = [
    ("claiming", {}, "claiming"),
    ("claiming", {"in_flight": 0, "taken": 0, "bridges": (bridge(pending=3),)}, "claiming"),
    ("idle", {"in_flight": 0, "taken": 0}, "idle: no job is pending or in flight"),
    ("full", {"taken": 4}, "full: 4 of 4 slots are taken"),
    ("paused", {"pause": Pause("ann", NOW - 180.0, "a move")}, "paused by ann for 3 min: a move"),
    ("paused", {"pause": Pause("ann", NOW - 5.0)}, "paused by ann for 5.0 s"),
    ("starting", {"bridges": (bridge(answer_age=None),)}, "starting: the server has not answered yet"),
    ("no_worker", {"nodes": Nodes(), "runnable": 0}, "no worker online"),
    (
        "no_worker",
        {"nodes": Nodes([replace(NODE, tasks=())]), "runnable": 0},
        "no worker online that runs a handler: celery@a is online, but has none of the tasks: is acme.tasks imported "
        "there?",
    ),
    (
        "no_worker",
        {"nodes": Nodes([replace(NODE, queues=("celery",))]), "runnable": 0},
        "no worker online that runs a handler: no online worker consumes queue 'images' (online: celery@a [celery])",
    ),
    (
        "jobs_wait",
        {"bridges": (bridge(pending=3, waiting=(QUEUE_WAITS, Waiting("full", "1 job waits", 1, 9.0))),)},
        "2 jobs wait for acme.tasks.thumbnail: no online worker consumes queue 'images'",
    ),
    (
        "jobs_wait",
        {"bridges": (bridge(pending=2, waiting=(QUEUE_WAITS,)),), "taken": 4},
        "2 jobs wait for acme.tasks.thumbnail: no online worker consumes queue 'images'",
    ),
    ("claiming", {"bridges": (bridge(pending=2, waiting=(replace(QUEUE_WAITS, seconds=4.9),)),)}, "claiming"),
    ("claiming", {"bridges": (bridge(pending=2, waiting=(Waiting("other", "1 job waits", 1, 9.0),)),)}, "claiming"),
    (
        "paused",
        {"pause": Pause("ann", NOW - 5.0), "bridges": (bridge(pending=2, waiting=(QUEUE_WAITS,)),)},
        "paused by ann for 5.0 s",
    ),
    (
        "server_unreachable",
        {"bridges": (bridge(server=AWAY, answer_age=76.0),)},
        "server unreachable for 76 s (last answer 76 s ago): GET /my-jobs: [Errno 111] Connection refused",
    ),
    (
        "server_unreachable",
        {"bridges": (bridge(server=AWAY, answer_age=None),)},
        "server unreachable for 76 s (no answer yet): GET /my-jobs: [Errno 111] Connection refused",
    ),
    (
        "token_refused",
        {"bridges": (bridge(token=Trouble("PUT /presence -> 401", 59.0)),)},
        "token refused for 60 s (PUT /presence -> 401)",
    ),
    (
        "requests_fail",
        {"bridges": (bridge(requests=Trouble("GET /my-jobs -> 404", 39.0)),)},
        "requests fail for 40 s: GET /my-jobs -> 404",
    ),
    (
        "broker_unreachable",
        {"bridges": (bridge(broker=Trouble("refused", 9.0)),)},
        "broker unreachable for 10 s: refused",
    ),
    (
        "no_bridge",
        {"bridges": ()},
        "no bridge online: no job is claimed, and lost runs are not noticed",
    ),
    (
        "no_bridge",
        {"bridges": (bridge(at=NOW - 60.0),)},
        "no bridge online (host:1 was last seen 60 s ago): no job is claimed, and lost runs are not noticed",
    ),
    ("ledger_unreachable", {"ledger": Trouble("refused", 20.0)}, "ledger unreachable for 20 s: refused"),
]


@pytest.mark.parametrize(("kind", "changes", "text"), CASES)
def test_the_state_follows_from_the_facts(kind: str, changes: dict[str, Any], text: str) -> None:
    state, *others = states(replace(WELL, **changes))
    assert (state.kind, state.text) == (kind, text)
    assert others == []
    assert state.wrong == bool(state.advice) or kind == "paused"


@pytest.mark.parametrize(
    ("why", "advice"),
    [
        ("ConnectionError: Error 111 connecting to 127.0.0.1:6379. Connection refused.", "start its Redis"),
        ("OutOfMemoryError: OOM command not allowed when used memory > 'maxmemory'.", "its Redis is full"),
        ("ResponseError: MISCONF Redis is configured to save RDB snapshots", "its Redis cannot save its data"),
        ("AuthenticationError: Authentication required.", "give its password"),
        ("NoPermissionError: this user has no permissions to run the 'evalsha' command", "its user lacks a permission"),
        ("ConnectionError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", "name its CA in the address"),
        ("ConnectionError: [SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED]", "if it requires a client certificate"),
        ("ConnectionError: EOF occurred in violation of protocol", "if it requires a client certificate"),
        ("AuthenticationError: invalid username-password pair or user is disabled.", "correct the password"),
    ],
)
def test_the_advice_for_the_ledger_follows_from_its_error(why: str, advice: str) -> None:
    assert ledger_advice(why).startswith(advice)
    assert ledger_advice(why) in states(Facts(ledger=Trouble(why, 20.0)))[0].advice


def test_a_full_ledger_has_its_own_advice() -> None:
    full = Trouble("the ledger at redis://x is full (OOM: its Redis has reached maxmemory)", 9.0)
    (state,) = states(replace(WELL, bridges=(bridge(requests=full),)))
    assert (state.kind, state.advice) == ("requests_fail", ledger_advice("OOM"))


def test_each_state_has_a_case() -> None:
    assert {kind for kind, _, _ in CASES} == set(KINDS)


def test_the_page_on_operations_lists_each_state_in_order() -> None:
    page = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
    rows = re.findall(r"^\| ([a-z ]+) \| (yes|no) \|", page.partition("### The states")[2], re.MULTILINE)
    assert rows == [(kind.replace("_", " "), "yes" if kind in WRONG else "no") for kind in KINDS]


def test_each_reason_to_wait_that_is_a_fault_has_advice() -> None:
    assert set(ADVICE) == set(REASONS) - set(NO_FAULT)


def test_all_reasons_why_jobs_wait_are_named_the_most_serious_first() -> None:
    refused = Waiting("refused", "1 job waits", 1, 60.0)
    waiting = (refused, QUEUE_WAITS)
    assert [state.text for state in states(replace(WELL, bridges=(bridge(waiting=waiting),)))] == [
        QUEUE_WAITS.text,
        refused.text,
    ]


def test_everything_that_is_wrong_is_named_the_most_serious_first() -> None:
    facts = replace(WELL, bridges=(bridge(server=AWAY, broker=AWAY),), nodes=Nodes(), runnable=0)
    assert [state.kind for state in states(facts)] == ["server_unreachable", "broker_unreachable", "no_worker"]


def test_a_pause_does_not_hide_what_is_wrong() -> None:
    facts = replace(WELL, bridges=(bridge(server=AWAY),), pause=Pause("ann", NOW))
    assert states(facts)[0].kind == "server_unreachable"


def test_bridges_that_differ_are_named() -> None:
    state, problem = states(replace(WELL, bridges=(bridge(), bridge("host:2", server=AWAY))))
    assert state.kind == "claiming"
    assert problem.kind == "server_unreachable"
    assert problem.wrong
    assert problem.text.endswith(", from host:2 only; 1 of 2 bridges work")


def test_an_old_announcement_says_nothing_about_the_present() -> None:
    old = bridge("host:2", at=NOW - 60.0, server=AWAY, pending=7)
    assert [state.kind for state in states(replace(WELL, bridges=(bridge(), old)))] == ["claiming"]
    assert replace(WELL, bridges=(bridge(), old)).pending == 0


def test_the_youngest_poll_of_the_bridges_counts() -> None:
    bridges = (bridge(pending=5, pending_age=9.0), bridge("host:2", pending=3, pending_age=2.0))
    assert replace(WELL, bridges=bridges).pending == 3
    assert replace(WELL, bridges=(bridge(pending=None),)).pending is None
