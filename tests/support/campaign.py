"""Runs many jobs while faults happen, and audits the results afterwards."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mr_celery.ledger import Ledger

from .fleet import Fleet
from .ports import until

FULL = bool(os.environ.get("MR_CELERY_FULL"))
"""Whether the tests run in their long form, as in ``make campaign``."""


def seed() -> int:
    """The campaign's seed: ``MR_CELERY_SEED``, or a new one. pytest prints it for failed tests."""
    chosen = int(os.environ.get("MR_CELERY_SEED") or random.SystemRandom().randrange(10**6))
    print(f"MR_CELERY_SEED={chosen}")
    return chosen


def jobs_each(few: int) -> int:
    """Number of jobs of a campaign: ``MR_CELERY_JOBS``, or ``few``."""
    return int(os.environ.get("MR_CELERY_JOBS") or few)


@dataclass
class Campaign:
    """The jobs of one campaign.

    Args:
        fleet: the installation.
        jobs: the expected result of each job, by id.
        prompts: their prompts.
        kinds: their capabilities.
    """

    fleet: Fleet
    jobs: dict[int, str] = field(default_factory=dict)
    prompts: dict[int, str] = field(default_factory=dict)
    kinds: dict[int, str] = field(default_factory=dict)

    def dispatch(self, count: int, capability: str | None = None, **fields: object) -> None:
        """Dispatch jobs of one kind, whose handlers return the prompt in capitals."""
        for _ in range(count):
            prompt = f"job {self.fleet.next_number()} of a campaign"
            job_id = self.fleet.dispatch(prompt, capability, **fields)
            self.jobs[job_id], self.prompts[job_id] = prompt.upper(), prompt
            self.kinds[job_id] = capability or ""

    def done(self) -> int:
        """Number of jobs that are over."""
        return sum(self.fleet.job(job_id)["status"] not in ("pending", "running") for job_id in self.jobs)

    def wrong(self) -> list[str]:
        """Describe finished jobs that are not done, not closed exactly once, or have the wrong result."""
        found = []
        for job_id, result in self.jobs.items():
            job, closes = self.fleet.job(job_id), self.fleet.events(job_id).count("close done")
            if (job["status"], job["result"], closes) != ("done", result, 1):
                found.append(f"job {job_id}: {job['status']}, {closes} times closed as done, result {job['result']!r}")
        return found

    def audit(self, *, seconds: float = 120.0, reruns: int = 0) -> None:
        """Wait until all jobs are over. Checks that each is done, was closed once, ran once, and has the right result.

        Args:
            seconds: the timeout.
            reruns: number of jobs that may have run again because their runs were lost.
        """
        fleet = self.fleet
        fleet.ended(*self.jobs, seconds=seconds)
        wrong = self.wrong()
        assert not wrong, f"{len(wrong)} of {len(self.jobs)} jobs with a wrong end: {wrong[:3]}"
        starts = fleet.starts()
        runs = Counter(starts[prompt] for prompt in self.prompts.values())
        again = sum(count for times, count in runs.items() if times != 1)
        assert again <= reruns, f"{dict(runs)} (times: jobs), only {reruns} may have run again"
        ledger = Ledger(fleet.environment["MODELREINS_LEDGER_URL"], fleet.name)
        until(lambda: not ledger.in_flight(), seconds=30, what="the ledger has closed all jobs")


@contextmanager
def all_survive(fleet: Fleet) -> Iterator[None]:
    """Check that no process of the fleet ends inside the block."""
    before = {process.log.name: process.popen.pid for process in fleet.processes}
    yield
    for process in fleet.processes:
        assert process.popen.poll() is None, f"{process.log.name} ended:\n{process.output[-3000:]}"
        assert before.get(process.log.name) == process.popen.pid
