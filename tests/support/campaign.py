"""Many jobs through an installation while something goes wrong, and the audit afterwards."""

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


def seed() -> int:
    """The campaign's seed: ``MR_CELERY_SEED``, or a new one. It is printed, and pytest shows it where a test fails."""
    chosen = int(os.environ.get("MR_CELERY_SEED") or random.SystemRandom().randrange(10**6))
    print(f"MR_CELERY_SEED={chosen}")
    return chosen


def jobs_each(few: int) -> int:
    """How many jobs a campaign has: ``MR_CELERY_JOBS``, or a few."""
    return int(os.environ.get("MR_CELERY_JOBS") or few)


@dataclass
class Campaign:
    """The jobs of one campaign.

    Args:
        fleet: the installation.
        jobs: what each job must end with, by id.
        prompts: their prompts.
        kinds: the capabilities that they ask for.
    """

    fleet: Fleet
    jobs: dict[int, str] = field(default_factory=dict)
    prompts: dict[int, str] = field(default_factory=dict)
    kinds: dict[int, str] = field(default_factory=dict)

    def dispatch(self, count: int, capability: str | None = None, **fields: object) -> None:
        """New jobs of one kind, whose handlers give back the prompt in capitals."""
        for _ in range(count):
            prompt = f"job {self.fleet.next_number()} of a campaign"
            job_id = self.fleet.dispatch(prompt, capability, **fields)
            self.jobs[job_id], self.prompts[job_id] = prompt.upper(), prompt
            self.kinds[job_id] = capability or ""

    def done(self) -> int:
        """How many are over."""
        return sum(self.fleet.job(job_id)["status"] not in ("pending", "running") for job_id in self.jobs)

    def wrong(self) -> list[str]:
        """What is wrong with the jobs, now that they are over: each is done, closed once, with its own result."""
        found = []
        for job_id, result in self.jobs.items():
            job, closes = self.fleet.job(job_id), self.fleet.events(job_id).count("close done")
            if (job["status"], job["result"], closes) != ("done", result, 1):
                found.append(f"job {job_id}: {job['status']}, {closes} times closed as done, result {job['result']!r}")
        return found

    def audit(self, *, seconds: float = 120.0, reruns: int = 0) -> None:
        """Wait until all jobs are over. Each is done, closed once, with its own result, and ran once.

        Args:
            seconds: how long to wait at the most.
            reruns: how many of them may have run again, as their runs were lost.
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
        until(lambda: not ledger.in_flight(), seconds=30, what="the ledger has closed all")


@contextmanager
def all_survive(fleet: Fleet) -> Iterator[None]:
    """No process of the fleet ends in the block."""
    before = {process.log.name: process.popen.pid for process in fleet.processes}
    yield
    for process in fleet.processes:
        assert process.popen.poll() is None, f"{process.log.name} ended:\n{process.output[-3000:]}"
        assert before.get(process.log.name) == process.popen.pid
