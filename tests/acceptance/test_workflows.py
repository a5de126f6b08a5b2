"""Handlers that hand their jobs over to Celery workflows, in real workers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mr_celery.ledger import Ledger
from mr_celery.sandbox import Sandbox
from support import fork_server
from support.fleet import BIN, Fleet
from support.ports import until
from support.servers import RabbitServer, RedisServer

CHAINS = {
    "single": "PROMPT",
    "chain": "10",
    "immutable": "PROMPT",
    "queue": "6",
    "link": "6",
    "callback": "3",
    "countdown": "6",
    "flaky": "PROMPT AFTER 2",
    "grows": "13",
    "grows-last": "4",
    "swaps": "111",
    "swaps-last": "102",
    "further": "4",
    "uploads": "UPLOADED ",
    "uploads-last": "uploaded ",
    "picture": "made PROMPT",
    "awaits": "AWAITED PROMPT",
    "handler": "PLAIN PROMPT",
    "map": "A B",
}
GROUPS = {
    "group": "[0, 2, 4]",
    "single-group": "[4]",
    "chord": "12",
    "chord-in-chain": "17",
    "group-in-chain": "[3, 4]",
    "nested": "26",
    "chord-to-group": "[6, 6]",
    "chunks": "[[0, 2], [4, 6]]",
    "swaps-header": "104",
}
FAILING = {
    "gives-up": "ValueError: no prompt",
    "fails": "ValueError: it broke",
    "errback": "ValueError: it broke",
    "ignores": "raised celery.exceptions.Ignore",
    "rejects": "rejected its task",
    "too-slow": "hard time limit of 1 s ended the run",
    "empty": "empty chain",
    "unencodable": "could not be published",
}
FAILING_GROUPS = {
    "header-fails": "ValueError: it broke",
    "body-fails": "ValueError: it broke",
    "nested-fails": "ValueError: it broke",
}
POOLS = ["prefork", "threads", "solo", "gevent"]


def made(sandbox: Sandbox, redis: RedisServer, folder: Path, *, backend: str = "", broker: str = "") -> Fleet:
    fleet = Fleet(
        sandbox,
        broker=broker or redis.url(0),
        ledger=redis.url(1),
        folder=folder,
        app="support.proj_workflows",
    )
    fleet.environment |= {"PROJ_BACKEND": backend, "MODELREINS_LEASE": "3"}
    return fleet


@pytest.fixture
def fleet(sandbox: Sandbox, redis_server: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    """An application with Redis as its result backend."""
    fleet = made(sandbox, redis_server, tmp_path, backend=redis_server.url(2))
    yield fleet
    fleet.stop()


@pytest.fixture
def bare(sandbox: Sandbox, redis_server: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    """An application without a result backend."""
    fleet = made(sandbox, redis_server, tmp_path)
    yield fleet
    fleet.stop()


def run_each(fleet: Fleet, capability: str, names: list[str], *, seconds: float = 60) -> dict[str, dict[str, Any]]:
    """Run a job for each workflow, all at once. Returns the ended jobs."""
    ids = {fleet.dispatch("prompt", capability, input=name): name for name in names}
    return {ids[job["id"]]: job for job in fleet.ended(*ids, seconds=seconds)}


def check_each(fleet: Fleet, capability: str, expected: dict[str, str], failing: dict[str, str]) -> None:
    jobs = run_each(fleet, capability, [*expected, *failing])
    wrong = {
        name: (job["status"], job["result"])
        for name, job in jobs.items()
        if job["status"] != ("failed" if name in failing else "done")
        or not (job["result"].startswith(expected[name]) if name in expected else failing[name] in job["result"])
    }
    assert not wrong
    for job in jobs.values():
        closes = [event for event in fleet.events(job["id"]) if event.startswith("close")]
        assert len(closes) == 1, closes


@pytest.mark.parametrize("pool", POOLS)
def test_every_kind_of_workflow(fleet: Fleet, pool: str) -> None:
    fleet.worker("-P", pool, "-c", "1" if pool == "solo" else "4", "-Q", "celery,other")
    fleet.bridge()
    failing = {**FAILING, **FAILING_GROUPS}
    if pool != "prefork":
        del failing["too-slow"]  # other pools have no hard time limits
    check_each(fleet, "return", {**CHAINS, **GROUPS}, failing)
    until(lambda: fleet.started("errback") >= 1, what="the errback")
    until(lambda: fleet.started("callback 3") == 1, what="the callback")


@pytest.mark.parametrize("pool", ["threads", "gevent"])
def test_a_retry_that_begins_before_the_execution_that_asked_for_it_has_ended(fleet: Fleet, pool: str) -> None:
    fleet.worker("-P", pool, "-c", "4", "-Q", "celery,other")
    fleet.bridge()
    check_each(fleet, "return", {"overlaps": "PROMPT AFTER 2"}, {})
    assert fleet.started("try prompt") == 3


def test_the_same_by_replace_and_from_async_handlers(fleet: Fleet) -> None:
    fleet.worker("-c", "4", "-Q", "celery,other")
    fleet.bridge()
    check_each(fleet, "replace", {**CHAINS, **GROUPS}, {**FAILING, **FAILING_GROUPS})
    check_each(fleet, "async-return", {"chain": "10", "chord": "12"}, {"fails": "ValueError: it broke"})


def test_uploads_of_members_wait_while_only_the_bridge_delivers(fleet: Fleet) -> None:
    fleet.environment["MODELREINS_DELIVERY"] = "bridge"
    fleet.worker("-c", "2")
    fleet.bridge()
    jobs = run_each(fleet, "return", ["uploads-first", "uploads-last"])
    for name, job in jobs.items():
        (artifact,) = fleet.sandbox.store.artifacts(job["id"])
        assert job["result"] == f"uploaded {artifact['slug']}", name


def test_the_final_member_may_defer_the_outcome(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    fleet.bridge()
    job_id = fleet.dispatch("later", "return", input="defers")
    refs = until(lambda: [text[4:] for text in fleet.starts() if text.startswith("ref ")], what="its reference")
    ledger = Ledger(fleet.environment["MODELREINS_LEDGER_URL"], fleet.name)
    until(lambda: (record := ledger.read(job_id)) and record.state == "deferred", what="the deferral")
    command = [str(BIN / "celery"), "-A", fleet.app, "modelreins", "complete", refs[0], "--result", "it came"]
    fork_server.run(command, env=fleet.environment, timeout=60, check=True)
    (job,) = fleet.ended(job_id)
    assert (job["status"], job["result"]) == ("done", "it came")


def test_jobs_shows_the_members(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    fleet.bridge()
    job_id = fleet.dispatch("shown", "return", input="nap")
    until(lambda: fleet.started("begin shown"), what="the member")
    command = [str(BIN / "celery"), "-A", fleet.app, "modelreins", "jobs", str(job_id)]
    shown = fork_server.run(command, env=fleet.environment, timeout=60, check=True)
    assert re.search(r"support.proj_workflows.nap +running +\S+ +w0@test", shown.stdout), shown.stdout
    assert "workflow" in shown.stdout
    fleet.sandbox.store.abort(job_id)
    until(lambda: "interrupted" in fleet.processes[0].output, what="the interruption")


def test_on_rabbitmq_with_a_backend_that_cannot_join_chords(
    sandbox: Sandbox, redis_server: RedisServer, rabbit_server: RabbitServer, tmp_path: Path
) -> None:
    """Celery then polls the results with its own task, which is a member, too."""
    results = tmp_path / "results"
    results.mkdir()
    fleet = made(sandbox, redis_server, tmp_path, broker=rabbit_server.url, backend=f"file://{results}")
    try:
        fleet.worker("-c", "4", "-Q", "celery,other")
        fleet.bridge()
        check_each(
            fleet,
            "return",
            {name: GROUPS[name] for name in ("group", "chord", "chord-in-chain", "nested")} | {"chain": "10"},
            {"header-fails": "ValueError: it broke", "fails": "ValueError: it broke"},
        )
    finally:
        fleet.stop()


def test_without_a_result_backend_chains_work_and_groups_fail_before_anything_is_sent(bare: Fleet) -> None:
    bare.worker("-c", "4", "-Q", "celery,other")
    bare.bridge()
    check_each(bare, "return", CHAINS, FAILING)
    adds = sum(count for text, count in bare.starts().items() if text.startswith("add "))
    jobs = run_each(bare, "return", list(GROUPS))
    assert {job["status"] for job in jobs.values()} == {"failed"}
    assert all("no result backend" in job["result"] for job in jobs.values())
    assert sum(count for text, count in bare.starts().items() if text.startswith("add ")) == adds
