"""Ledgers on a Redis Cluster of three nodes: each worker name is on one node, even while it moves to another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mr_celery.errors import LedgerUnavailable
from mr_celery.ledger import Ledger
from mr_celery.sandbox import Sandbox
from support.fleet import Fleet
from support.ledgers import DONE, LATER, STATES, LedgerKit
from support.ports import until
from support.servers import ClusterServers, RedisServer

from .test_transitions import ANSWERS_WITH_THE_STATE, LEADS, STEPS

NAMES = ("a", "b", "c")
"""Worker names whose ledgers are on three nodes."""


def kit_of(cluster: ClusterServers, name: str) -> LedgerKit:
    """The ledger of a worker name."""
    url = cluster.ledger_url()
    return LedgerKit(Ledger(url, name), RedisServer.client_of(url))


def slot_of(cluster: ClusterServers, name: str) -> int:
    return cluster.slot_of(f"modelreins:{{{name}}}:")


@pytest.fixture(autouse=True)
def empty(cluster: ClusterServers) -> None:
    cluster.flush()


def test_the_worker_names_are_on_different_nodes(cluster: ClusterServers) -> None:
    for name in NAMES:
        kit_of(cluster, name).bring("running")
    assert {cluster.owner(slot_of(cluster, name)).port for name in NAMES} == {node.port for node in cluster.nodes}
    assert all(node.client().dbsize() for node in cluster.nodes)


@pytest.mark.parametrize("step", STEPS)
def test_each_step_of_all_worker_names_leads_to_the_same_states_as_on_one_redis(
    cluster: ClusterServers, step: str
) -> None:
    for name in NAMES:
        kit = kit_of(cluster, name)
        for job_id, state in enumerate(STATES, 1):
            run = kit.bring(state, job_id)
            answer = STEPS[step](kit, run)
            record = kit.ledger.read(job_id)
            assert (record.state if record else "unknown") == LEADS[step].get(state, state), (name, state)
            if step not in ANSWERS_WITH_THE_STATE:
                assert bool(answer) == (state in LEADS[step]), (name, state)


@pytest.mark.parametrize("moved", ["nothing", "a part", "everything"])
def test_a_step_waits_while_its_keys_are_moved(cluster: ClusterServers, moved: str) -> None:
    kit, slot = kit_of(cluster, "a"), slot_of(cluster, "a")
    run = kit.bring("running")
    source = cluster.owner(slot)
    target = next(node for node in cluster.nodes if node is not source)
    keys = source.client().execute_command("CLUSTER COUNTKEYSINSLOT", slot)
    cluster.begin_move(slot, source, target)
    cluster.move_keys(slot, source, target, most={"nothing": 0, "a part": keys // 2, "everything": keys}[moved] or 0)

    for step in (
        lambda: kit.ledger.finish(run, DONE, deliver_seconds=LATER),
        lambda: kit.bring("admitted", 2),
        lambda: kit.ledger.survey(),
    ):
        with pytest.raises(LedgerUnavailable):
            step()

    while cluster.move_keys(slot, source, target, most=10):
        pass
    cluster.end_move(slot, target)
    assert target.client().execute_command("CLUSTER COUNTKEYSINSLOT", slot) == keys, "nothing was written meanwhile"
    assert kit.ledger.finish(run, DONE, deliver_seconds=LATER) == "finished"
    assert kit.bring("running", 2).task_id
    assert kit.ledger.survey().states["finished"] == 1


@pytest.fixture
def fleet(cluster: ClusterServers, redis_server: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    """An installation with three worker names."""
    tokens = {name: f"token-of-{name}" for name in NAMES}
    with Sandbox(tokens=tokens) as sandbox:
        made = Fleet(sandbox, broker=redis_server.url(0), ledger=cluster.ledger_url(), folder=tmp_path)
        for needless in ("MODELREINS_NAME", "MODELREINS_TOKEN"):
            del made.environment[needless]
        made.environment["MODELREINS_WORKERS"] = json.dumps({name: {"token_env": f"TOKEN_{name}"} for name in NAMES})
        made.environment.update({f"TOKEN_{name}": token for name, token in tokens.items()})
        yield made
        made.stop()


def test_slots_move_to_other_nodes_while_jobs_run(cluster: ClusterServers, fleet: Fleet) -> None:
    fleet.bridge()
    fleet.worker("-P", "threads", "-c", "4")
    jobs: list[int] = []

    def states() -> set[str]:
        return {fleet.job(job_id)["status"] for job_id in jobs}

    for target in (*cluster.nodes, *cluster.nodes):
        for name in NAMES:
            jobs += [int(fleet.sandbox.dispatch(f"{name} {number}", worker=name)["id"]) for number in range(5)]
        until(lambda: "running" in states() or states() == {"done"}, what="jobs run")
        for name in NAMES:
            if cluster.owner(slot_of(cluster, name)) is not target:
                cluster.move(slot_of(cluster, name), target)

    ended = fleet.ended(*jobs, seconds=120)

    assert [job["status"] for job in ended] == ["done"] * len(jobs)
    for job_id in jobs:
        assert [event for event in fleet.events(job_id) if event.startswith("close")] == ["close done"]
    for name in NAMES:
        until(lambda name=name: not kit_of(cluster, name).ledger.in_flight(), what=f"no job of {name} is in flight")
