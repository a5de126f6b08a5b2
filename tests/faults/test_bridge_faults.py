"""Several bridges of one worker name that die, freeze, or have a wrong clock.

Assumption shared with the code: the ledger's data is whole. ``test_damaged_ledger.py`` drops it.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from support.campaign import Campaign, seed
from support.fleet import Fleet
from support.ports import until

SECONDS = float(os.environ.get("MR_CELERY_SECONDS") or 20)
"""How long bridges are killed and started at random."""


@pytest.mark.parametrize("bridges", [2, 5])
def test_bridges_killed_and_started_at_random(fleet: Fleet, bridges: int) -> None:
    dice = random.Random(seed())
    fleet.worker("-c", "2")
    for _ in range(bridges):
        fleet.bridge(ready=False)
    fleet.keep_running()
    campaign = Campaign(fleet)
    end = time.monotonic() + SECONDS
    kills = 0
    while time.monotonic() < end:
        campaign.dispatch(dice.randint(1, 20))
        campaign.dispatch(dice.randint(0, 3), "poster")
        victim = dice.choice(fleet.processes[1:])
        threading.Event().wait(dice.uniform(0.1, 1.5))  # it dies at any moment: that is the fault
        victim.signal(signal.SIGKILL)
        kills += 1
    campaign.audit()
    assert kills > 5


def test_a_bridge_that_is_frozen_and_thawed(fleet: Fleet) -> None:
    fleet.worker("-c", "2")
    frozen, other = fleet.bridge(), fleet.bridge()
    campaign = Campaign(fleet)
    for _ in range(3):
        campaign.dispatch(40)
        claims = frozen.output.count("sent to queue")

        def claims_again(claims: int = claims) -> bool:
            if campaign.done() == len(campaign.jobs):
                campaign.dispatch(10)  # the other bridge was faster
            return frozen.output.count("sent to queue") > claims

        until(claims_again, what="it claims")
        frozen.signal(signal.SIGSTOP)
        campaign.dispatch(10)
        done = campaign.done()
        until(lambda done=done: campaign.done() > done + 5 or campaign.done() == len(campaign.jobs))  # type: ignore[misc]
        threading.Event().wait(6)  # longer than any lease that it held
        frozen.signal(signal.SIGCONT)
    campaign.audit()
    assert frozen.terminate() == 0
    assert other.terminate() == 0


@pytest.mark.parametrize("skew", ["+60s", "-60s"])
def test_a_clock_that_is_a_minute_wrong(fleet: Fleet, skew: str) -> None:
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    wrong = {"LD_PRELOAD": str(library), "FAKETIME": skew, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    victim = fleet.worker("-c", "1", **wrong)
    fleet.bridge(**wrong)
    fleet.bridge()
    long = fleet.dispatch("longer than the lease", "nap", seconds=6)
    until(lambda: fleet.started("longer than the lease") == 1, what="it runs")
    fleet.worker("-c", "1")
    fleet.ended(long)
    assert fleet.started("longer than the lease") == 1
    # The same for a job whose run is lost.
    victim.terminate()
    victim = fleet.worker("-c", "1", **wrong)
    pair = [fleet.dispatch(f"lost {n}", "nap", seconds=3) for n in range(2)]
    until(lambda: fleet.started("lost 0") + fleet.started("lost 1") == 2, what="both run")
    victim.kill()
    assert [job["result"] for job in fleet.ended(*pair, seconds=40)] == ["LOST 0", "LOST 1"]
    assert fleet.started("lost 0") + fleet.started("lost 1") == 3


def test_a_bridge_whose_signal_goes_to_another_of_its_threads_ends(fleet: Fleet) -> None:
    bridge = fleet.bridge()
    pid = bridge.popen.pid
    other = max(int(thread) for thread in os.listdir(f"/proc/{pid}/task"))
    assert other != pid
    assert ctypes.CDLL(None).tgkill(pid, other, signal.SIGTERM) == 0
    assert bridge.popen.wait(60) == 0
