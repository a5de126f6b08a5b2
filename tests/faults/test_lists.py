"""Unusual lists of jobs: entries that cannot be read, lists of any length, statuses with any name.

The other matrices share these assumptions with the code, so they cannot test them: a list is short enough to be parsed
in one piece, an invalid entry has fields of the wrong type, and a job that is over is ``done``, ``failed`` or
``escalated``. Here a separate server (tests/support/plain_server.py) sends lists of up to 70 MB, with entries that
exceed every bound in either list, and jobs end with statuses that no code expects.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mr_celery.ledger import Ledger
from support.campaign import all_survive
from support.fleet import Fleet
from support.http_server import Reply, Request
from support.plain_server import PlainServer, route_of
from support.ports import until
from support.servers import RedisServer

MIB = 2**20

HOSTILE = {
    "nested 2 000 deep": b'{"id": 900001, "prompt": "x", "input": ' + b"[" * 2000 + b"]" * 2000 + b"}",
    "nested 200 000 deep": b'{"id": 900002, "prompt": "x", "input": ' + b'{"a":' * 200_000 + b"1" + b"}" * 200_001,
    "5 000 digits": b'{"id": 900003, "prompt": "x", "input": ' + b"9" * 5000 + b"}",
    "an id of 5 000 digits": b'{"id": ' + b"9" * 5000 + b', "prompt": "x"}',
    "70 MB": b'{"id": 900004, "prompt": "' + b"x" * (70 * MIB) + b'"}',
    "no JSON": b'{"id": 900005, "prompt": undefined}',
    "no UTF-8": b'{"id": 900006, "prompt": "\xff\xfe"}',
    "a newline in a text": b'{"id": 900007, "prompt": "a\nb"}',
    "no object": b'null,7,"x",[[]],-0.0e-0,true,{}',
    "wrong types": b'{"id": 900008, "prompt": 7},{"id": 900009, "prompt": "x", "capability": []}',
    "listed twice": b'{"id": 900010, "prompt": "x"},{"id": 900010, "prompt": "y"}',
    "a status that is no word": b'{"id": 900011, "prompt": "x", "status": {}}',
    "surrogates": b'{"id": 900012, "prompt": "\\ud800", "tags": {"\\udfff": "\\u0000"}}',
}
"""Entries that cannot be used; each with others around it."""

WORDS = ["cancelled", "Completed", " ARCHIVED ", "timed_out", "取消"]
"""Words under which an operator ends a job."""


@pytest.fixture
def server() -> Iterator[PlainServer]:
    """A server that reports single jobs. With ``reports_single_jobs`` unset, it returns 403."""

    def refuse(request: Request) -> Reply | None:
        return Reply(403, {}) if route_of(request) == "job" and not running.reports_single_jobs else None

    with PlainServer() as running:
        running.spoil, running.reports_single_jobs = refuse, True
        yield running


@pytest.fixture
def fleet(server: PlainServer, redis_server: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    """An installation with that server; no process runs yet."""
    made = Fleet(server, broker=redis_server.url(0), ledger=redis_server.url(1), folder=tmp_path)  # type: ignore[arg-type]
    made.environment["MODELREINS_TIMEOUT"] = "10"
    yield made
    made.stop()


def all_done(server: PlainServer, jobs: list[int], *, seconds: float = 90.0) -> None:
    """Wait until these jobs are done, each closed once with its own result."""
    until(lambda: all(job_id in server.results for job_id in jobs), seconds=seconds, what="they are closed")
    for job_id in jobs:
        assert server.results[job_id] == ("done", server.jobs[job_id]["prompt"].upper())
        assert server.closes[job_id] == 1


def ledger_of(fleet: Fleet) -> Ledger:
    return Ledger(fleet.environment["MODELREINS_LEDGER_URL"], fleet.name)


@pytest.mark.long
@pytest.mark.parametrize("where", ["pending", "running"])
def test_entries_that_cannot_be_used_stop_no_other_job(server: PlainServer, fleet: Fleet, where: str) -> None:
    fleet.worker("-c", "4")
    bridge = fleet.bridge()
    before = [fleet.dispatch(f"job {number}", "nap", seconds=0.2) for number in range(10)]
    while_it_lasts = fleet.dispatch("all the while", "nap", seconds=600)  # so that the list of running jobs is read
    with all_survive(fleet):
        until(lambda: server.results, what="work is under way")
        for name, entry in HOSTILE.items():
            server.extra[where] = [entry]
            jobs = [fleet.dispatch(f"{name} {number}") for number in range(5)]
            all_done(server, jobs)
            asked = server.asked[where]
            # Lists that take long to read are read less often, down to every 30 s.
            until(lambda: server.asked[where] > asked, seconds=60, what="the list is read again")  # noqa: B023
        server.extra[where] = list(HOSTILE.values())
        all_done(server, [*before, *(fleet.dispatch(f"after all {number}") for number in range(20))])
        server.extra.clear()
        server.end(while_it_lasts, "cancelled")
        until(lambda: not ledger_of(fleet).in_flight(), seconds=60, what="the ledger has closed all")
    until(lambda: bridge.output.count("aborted on the server") == 1, what="the bridge has told of it")
    lines = [line for line in bridge.output.splitlines() if "left out of the list" in line]
    for why in (
        "nested deeper than 100",
        "too many digits",
        "longer than 4 MiB",
        "not JSON",
        "not UTF-8",
        "no usable id",
    ):
        assert any(why in line for line in lines), why
    assert len(lines) <= 3 * len(HOSTILE), "each entry is logged once, and not with each list"
    assert not {job_id for job_id in server.closes if job_id > 900_000}


@pytest.mark.parametrize("where", ["pending", "running"])
def test_the_same_lists_are_not_logged_again_and_again(server: PlainServer, fleet: Fleet, where: str) -> None:
    fleet.worker("-c", "1")
    bridge = fleet.bridge()
    server.extra[where] = [entry for name, entry in HOSTILE.items() if name not in ("70 MB", "nested 200 000 deep")]
    fleet.dispatch("all the while", "nap", seconds=600)
    until(lambda: server.asked[where] > 5, seconds=90, what="the list is read again and again")
    lines = [line.partition("]")[2] for line in bridge.output.splitlines() if "left out of the list" in line]
    assert len(lines) == len(set(lines)) >= 7


def test_a_long_inbox_is_claimed_and_memory_does_not_grow_with_it(server: PlainServer, fleet: Fleet) -> None:
    fleet.worker("-c", "4")
    bridge = fleet.bridge()
    process = psutil.Process(bridge.popen.pid)
    all_done(server, [fleet.dispatch(f"first {number}") for number in range(20)])
    idle = process.memory_info().rss
    long = [fleet.dispatch(f"job {number} " + "x" * 6500) for number in range(10_500)]
    assert sum(len(json.dumps(server.jobs[job_id])) for job_id in long) > 64 * MIB
    peak = 0

    def some_done() -> bool:
        nonlocal peak
        peak = max(peak, process.memory_info().rss)
        return len(server.results) >= 320

    with all_survive(fleet):
        until(some_done, seconds=120, what="jobs of the long inbox are closed")
    assert min(job_id for job_id in long if job_id in server.results) == long[0]
    assert peak - idle < 150 * MIB


def test_a_long_list_of_running_jobs_aborts_nothing(server: PlainServer, fleet: Fleet) -> None:
    """Many jobs of another worker name, for example, are neither run nor in the way."""
    entry = json.dumps({"id": 0, "prompt": "x" * 15_000, "status": "running", "assigned_to": "other"})
    server.extra["running"] = [entry.replace('"id": 0', f'"id": {900_000 + n}').encode() for n in range(4600)]
    fleet.worker("-c", "4")
    bridge = fleet.bridge()
    with all_survive(fleet):
        jobs = [fleet.dispatch(f"job {number}", "nap", seconds=3) for number in range(8)]
        until(lambda: len(ledger_of(fleet).in_flight()) == 8, what="they are claimed")
        server.end(jobs[-1], "cancelled")
        all_done(server, jobs[:-1])
        until(lambda: not ledger_of(fleet).in_flight(), what="the ledger has closed all")
    assert bridge.output.count("aborted on the server") <= 1
    assert "adopted" not in bridge.output


@pytest.mark.parametrize("told_by", ["single job", "running list"])
def test_a_job_that_an_operator_ends_under_any_word_is_interrupted(
    server: PlainServer, fleet: Fleet, told_by: str
) -> None:
    server.reports_single_jobs = told_by == "single job"
    server.lists_ended_jobs = told_by == "running list"
    worker = fleet.worker("-c", "2")
    fleet.bridge()
    with all_survive(fleet):
        for number, word in enumerate(WORDS, 1):
            job_id = fleet.dispatch(f"until {word}", "nap", seconds=120)
            until(lambda job_id=job_id: server.jobs[job_id]["status"] == "running", what="it is claimed")  # type: ignore[misc]
            until(lambda word=word: fleet.started(f"until {word}") == 1, what="it runs")  # type: ignore[misc]
            server.end(job_id, word)
            until(lambda number=number: worker.output.count("interrupted: it was aborted") == number, what=word)  # type: ignore[misc]
            all_done(server, [fleet.dispatch(f"after {word} {each}") for each in range(4)])
            assert server.closes[job_id] == 0
            assert server.jobs[job_id]["status"] == word
    until(lambda: not ledger_of(fleet).in_flight(), what="all slots are free")


@pytest.mark.parametrize("word", WORDS)
def test_an_outcome_that_comes_after_the_end_is_not_delivered_without_end(
    server: PlainServer, fleet: Fleet, word: str
) -> None:
    fleet.worker("-c", "3")
    fleet.bridge()
    jobs = [fleet.dispatch(f"job {number}", "nap", seconds=2) for number in range(3)]
    until(lambda: all(fleet.started(f"job {number}") for number in range(3)), what="they run")
    until(lambda: set(ledger_of(fleet).in_flight().values()) == {"running"}, what="they are known")
    for job_id in jobs:
        server.end(job_id, word)
    until(lambda: not ledger_of(fleet).in_flight(), what="the ledger has ended them")
    all_done(server, [fleet.dispatch(f"after {number}") for number in range(5)])
    assert max(server.closes[job_id] for job_id in jobs) <= 2
    assert not server.results.keys() & set(jobs)
