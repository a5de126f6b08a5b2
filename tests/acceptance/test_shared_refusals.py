"""Bridges and workers whose token is refused: together they retry it only a few times."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from mr_celery.sandbox import Rule
from support.counted import CountedSandbox
from support.fleet import Fleet
from support.ports import until

SECONDS = 20.0


@pytest.fixture
def sandbox() -> Iterator[CountedSandbox]:
    with CountedSandbox() as sandbox:
        yield sandbox


@pytest.mark.long
@pytest.mark.timeout(240)
def test_all_processes_together_try_a_refused_token_a_few_times(fleet: Fleet, sandbox: CountedSandbox) -> None:
    """Two bridges and two workers, with eight jobs that end while the token is refused."""
    gate = fleet.folder / "gate"
    fleet.environment |= {"PROJ_GATE": str(gate), "MODELREINS_HEARTBEAT_INTERVAL": "0.5"}
    first, second = fleet.bridge(), fleet.bridge()
    for _ in range(2):
        fleet.worker("-c", "8")  # each could receive all jobs
    jobs = [fleet.dispatch(f"job {number}", "gated") for number in range(8)]
    until(lambda: sum(fleet.started(f"job {number}") for number in range(8)) == 8, seconds=60, what="all run")

    refused_from = time.monotonic()
    sandbox.chaos.set([Rule("status", status=401)])
    gate.touch()
    until(lambda: time.monotonic() - refused_from > SECONDS, seconds=SECONDS + 5, what="the refusals last")
    asked = [kind for at, kind in list(sandbox.requests) if at > refused_from]
    # Requests that were under way, then one each after 1, 2, 4 and 8 s. Presence alone would take 80 requests.
    assert 4 <= len(asked) <= 24, asked
    first.says("the server refuse")
    second.says("the server refuse")

    sandbox.chaos.set([])
    for job in fleet.ended(*jobs, seconds=90):
        assert job["status"] == "done"
