"""A ledger behind Sentinels: its master is killed, and frozen, while jobs run."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from mr_celery.sandbox import Sandbox
from support import fork_server
from support.campaign import Campaign, all_survive
from support.fleet import BIN, Fleet
from support.ports import until
from support.servers import RedisServer, SentinelServers

RERUNS = 4
"""Redis replicates asynchronously: the starts of the last milliseconds before a failover may be lost."""

ANY = 1_000_000


@pytest.fixture
def sentinels() -> Iterator[SentinelServers]:
    servers = SentinelServers()
    yield servers
    servers.stop()


@pytest.fixture
def fleet(sentinels: SentinelServers, sandbox: Sandbox, redis_server: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    """An installation whose ledger is behind the Sentinels, and whose broker is another Redis."""
    made = Fleet(sandbox, broker=redis_server.url(0), ledger=sentinels.url, folder=tmp_path)
    yield made
    made.stop()


@pytest.mark.long
def test_failovers_lose_no_job_and_close_none_twice(fleet: Fleet, sentinels: SentinelServers) -> None:
    fleet.worker("-c", "4", "-Q", "celery,other")
    bridge = fleet.bridge()
    campaign = Campaign(fleet)

    def go_on(jobs: int) -> None:
        """Let jobs run before, during and after what follows."""
        done = campaign.done()
        campaign.dispatch(jobs, "nap", seconds=0.5)
        until(lambda: campaign.done() >= done + jobs // 4, seconds=90, what="work is under way")

    with all_survive(fleet):
        go_on(20)
        killed = sentinels.fail_over(RedisServer.kill)
        go_on(20)
        killed.start()
        sentinels.all_known()
        go_on(20)
        frozen = sentinels.fail_over(lambda master: master.process.send_signal(signal.SIGSTOP))
        go_on(20)
        frozen.process.send_signal(signal.SIGCONT)
        campaign.audit(seconds=120, reruns=RERUNS)
    assert "Traceback" not in bridge.output
    command = [str(BIN / "celery"), "-A", "support.proj", "modelreins", "check"]
    checked = fork_server.run(command, env=fleet.environment, timeout=60)
    assert checked.returncode == 0, checked.stdout
    assert "sentinel://127.0.0.1:" in checked.stdout


@pytest.mark.long
def test_a_master_that_is_cut_off_again_and_again_loses_no_start_that_a_replica_had(
    sandbox: Sandbox, redis_server: RedisServer, tmp_path: Path
) -> None:
    """With the documented settings, steps wait for a replica, and a master without replicas accepts no writes."""
    sentinels = SentinelServers(replicas=2)
    fleet = Fleet(sandbox, broker=redis_server.url(0), ledger=sentinels.url, folder=tmp_path)
    fleet.environment |= {"MODELREINS_LEDGER_REPLICAS": "1", "MODELREINS_LEASE": "10"}
    try:
        for each in sentinels.redis:
            each.client().config_set("min-replicas-max-lag", 2)
            each.client().config_set("min-replicas-to-write", 1)
        cut_off_again_and_again(fleet, sentinels, times=2, reruns=0)
    finally:
        fleet.stop()
        sentinels.stop()


def test_a_master_that_is_cut_off_with_the_processes_loses_no_job(fleet: Fleet, sentinels: SentinelServers) -> None:
    """Without these settings, bridge and workers use the former master for two more seconds, and lose that work."""
    cut_off_again_and_again(fleet, sentinels, times=1, reruns=ANY)


def more_than(done: int, campaign: Campaign) -> bool:
    return campaign.done() > done


def cut_off_again_and_again(fleet: Fleet, sentinels: SentinelServers, *, times: int, reruns: int) -> None:
    fleet.worker("-c", "4", "-Q", "celery,other")
    fleet.bridge()
    campaign = Campaign(fleet)
    with all_survive(fleet):
        for _ in range(times):
            campaign.dispatch(10, "nap", seconds=0.3)
            done = campaign.done()
            former = sentinels.fail_over(sentinels.cut_off)
            campaign.dispatch(10, "nap", seconds=0.3)
            until(partial(more_than, done, campaign), seconds=60, what="work goes on")
            sentinels.mend(former)
            sentinels.all_known()
        campaign.audit(seconds=120, reruns=reruns)


def test_sentinels_without_a_master_are_an_outage_of_the_ledger(fleet: Fleet, sentinels: SentinelServers) -> None:
    fleet.worker("-c", "2")
    bridge = fleet.bridge()
    campaign = Campaign(fleet)
    with all_survive(fleet):
        for each in sentinels.redis:
            each.process.send_signal(signal.SIGSTOP)
        campaign.dispatch(3)
        bridge.says("the ledger at sentinel://", seconds=60)
        for each in sentinels.redis:
            each.process.send_signal(signal.SIGCONT)
        campaign.audit(seconds=120, reruns=RERUNS)
