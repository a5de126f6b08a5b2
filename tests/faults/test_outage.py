"""The server is unreachable while thousands of jobs finish: nothing is lost or grows, or overloads it afterwards.

Assumption shared with the code: an outage ends, and all requests fail alike. ``test_endless_deliveries.py`` has faults
that stay, and faults that affect only one job.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mr_celery.ledger import Ledger
from support.campaign import FULL, Campaign, all_survive
from support.counted import CountedSandbox
from support.fleet import Fleet
from support.ports import until

JOBS = 5000 if FULL else 2000

GROWTH = 8 * 2**20
"""Bytes by which a process may grow while outcomes pile up in the ledger."""


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[CountedSandbox]:
    with CountedSandbox(db=str(tmp_path / "server.db")) as running:
        yield running


def memory(fleet: Fleet) -> dict[str, int]:
    """The resident memory in bytes of each of the fleet's processes, or of its largest child."""
    found = {}
    for process in fleet.processes:
        parent = psutil.Process(process.popen.pid)
        found[process.log.name] = max(each.memory_info().rss for each in [parent, *parent.children(recursive=True)])
    return found


@pytest.mark.long
@pytest.mark.timeout(420)
def test_thousands_of_jobs_finish_while_the_server_is_unreachable(fleet: Fleet, sandbox: CountedSandbox) -> None:
    jobs = JOBS
    campaign = Campaign(fleet)
    fleet.environment["MODELREINS_MAX_INFLIGHT"] = str(jobs + 10)
    # The handlers wait for the outage, so that all of them finish during it.
    gate = fleet.folder / "gate"
    worker = fleet.worker("-c", "4", PROJ_GATE=str(gate))
    fleet.bridge()
    campaign.dispatch(jobs, "gated")
    ledger = Ledger(fleet.environment["MODELREINS_LEDGER_URL"], fleet.name)

    def all_claimed() -> bool:
        survey = ledger.survey()  # a claim whose response is lost in the outage is settled after it
        return survey.in_flight == jobs and not survey.states["admitted"]

    until(all_claimed, seconds=180, what="all are claimed")
    sandbox.stop()
    before = memory(fleet)
    gate.touch()
    until(lambda: ledger.survey().states["finished"] == jobs, seconds=180, what="all have finished")
    threading.Event().wait(10)  # the outage is the fault: there is nothing to wait for
    grown = {name: size - before[name] for name, size in memory(fleet).items()}
    assert max(grown.values()) < GROWTH, grown
    sandbox.requests.clear()
    sandbox.most_at_once = 0
    with all_survive(fleet):
        sandbox.start()
        began = time.monotonic()
        campaign.audit(seconds=60)
        print(f"{jobs} outcomes delivered {time.monotonic() - began:.1f} s after the server was back")
    assert sandbox.most_at_once <= 8 + 4 + 4, "no more than a courier's, the workers' and a bridge's own requests"
    assert worker.output.count("not delivered yet") < jobs / 10
    warnings = [line for line in fleet.processes[1].output.splitlines() if "WARNING" in line or "ERROR" in line]
    assert len(warnings) < jobs / 10, "an outage does not fill the log"
