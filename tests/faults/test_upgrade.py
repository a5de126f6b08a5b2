"""A fleet is upgraded process by process under load, without a drain, and downgraded again, without losing a job.

The code of the previous version comes from an archive. Every second process is killed instead of stopped. Assumption
shared with the code: a killed worker is detected by its lease, and only its jobs run again.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from mr_celery.sandbox import Sandbox
from support import version_before
from support.campaign import Campaign
from support.fleet import BIN, Fleet, Process
from support.ports import until
from support.servers import RedisServer

KINDS = (None, None, "artifacts", "retry", "defer", "defer", "chain", "chord")
"""The handlers that get a job of each batch, besides ``fail`` and ``abort``."""

MISUNDERSTANDING = re.compile("(Attribute|Index|Key|Lookup|Response|Type)Error|running script|values to unpack")
"""What a process logs that cannot read what one of another version wrote. No handler raises these errors."""

TESTS = Path(__file__).parents[1]

SLOTS = 2
BEFORE, THIS = "the version before", "this version"


@pytest.fixture(scope="module")
def path_before(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"{version_before.install(tmp_path_factory.mktemp('before'))}{os.pathsep}{TESTS}"


class Upgrade:
    """A fleet of one bridge and two workers, each with one of two versions, and its jobs."""

    def __init__(self, fleet: Fleet, path_before: str) -> None:
        self.fleet = fleet
        self.campaign = Campaign(fleet)
        self.failing: set[int] = set()
        self.to_abort: list[int] = []
        self.aborted: list[int] = []
        self._paths = {BEFORE: path_before, THIS: fleet.environment["PYTHONPATH"]}
        self._numbers = count(1)
        self._replaced: list[str] = []
        self._processes = {name: self._start(name, BEFORE) for name in ("worker 1", "worker 2", "bridge")}
        for rest, version in enumerate((BEFORE, THIS)):
            hooks = fleet._start(
                "hooks", ["python", "-m", "support.web_hooks", str(rest), "2"], PYTHONPATH=self._paths[version]
            )
            hooks.says("ready")

    def _start(self, name: str, version: str) -> Process:
        path = self._paths[version]
        if name == "bridge":
            return self.fleet.bridge(PYTHONPATH=path)
        return self.fleet.worker("-c", str(SLOTS), PYTHONPATH=path)

    def dispatch(self) -> None:
        """Dispatch a batch of jobs."""
        for kind in KINDS:
            self.campaign.dispatch(1, kind)
        number = self.fleet.next_number()
        self.failing.add(self.fleet.dispatch(f"failing {number}", "fail"))
        self.to_abort.append(self.fleet.dispatch(f"aborted {number}", "abort"))

    def _abort(self) -> None:
        while self.to_abort:
            self.aborted.append(self.to_abort.pop())
            self.fleet.sandbox.store.abort(self.aborted[-1])

    def replace(self, name: str, version: str) -> None:
        """Replace a process with one of another version. Every second one is killed, the others are stopped."""
        process, number = self._processes[name], next(self._numbers)
        end, how = (process.kill, "killed") if number % 2 else (process.terminate, "stopped")
        if name == "bridge":
            end()
        else:
            self._replaced.append(f"{number}: {name} is {how}")
            self._note(f"begin {self._replaced[-1]}")
            end()
            self._note(f"end {self._replaced[-1]}")
        self._processes[name] = self._start(name, version)

    def _note(self, line: str) -> None:
        """Add a line between those of the handlers."""
        with self.fleet.runs.open("a") as file:
            file.write(f"{line}\n")

    def move(self, version: str, order: tuple[str, ...]) -> None:
        """Replace the processes in this order, each while jobs are running."""
        for name in order:
            self.dispatch()
            done = self.campaign.done()
            until(lambda done=done: self.campaign.done() > done + 2, seconds=120, what="jobs run")  # type: ignore[misc]
            self._abort()
            self.replace(name, version)
            self.dispatch()
            rest = len(self.campaign.jobs) - len(KINDS) // 2
            until(lambda rest=rest: self.campaign.done() > rest, seconds=120, what="both versions run jobs")  # type: ignore[misc]

    def audit(self, version: str) -> None:
        """Check that every job ended exactly once, and that none ran again unless a worker was killed."""
        self._abort()
        self.campaign.audit(seconds=120, reruns=len(self.campaign.jobs))
        for job in self.fleet.ended(*self.failing):
            assert (job["status"], "ValueError: FAILING" in job["result"]) == ("failed", True)
            assert self.fleet.events(job["id"]).count("close failed") == 1
        for job_id in self.aborted:
            assert not [event for event in self.fleet.events(job_id) if event.startswith("close")]
        self._explain_reruns()
        self._look_for_artifacts()
        self._look_for_misunderstandings()
        found = self.check(version, "--audit")
        assert "the ledger (0 in flight) and the server (0 running, 0 pending) agree" in found, found

    def check(self, version: str, *options: str) -> str:
        """The output of a version's ``check``."""
        command = [str(BIN / "celery"), "-A", self.fleet.app, "modelreins", "check", *options]
        environment = {**self.fleet.environment, "PYTHONPATH": self._paths[version]}
        found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        return found.stdout + found.stderr

    def _explain_reruns(self) -> None:
        """Check that a job ran again only if a worker was killed meanwhile, and at most once for each.

        A worker that stops may lose a message. A job's message is sent again; losing a member's costs an attempt.
        """
        lines = self.fleet.runs.read_text().splitlines()
        spans = [(what, lines.index(f"begin {what}"), lines.index(f"end {what}")) for what in self._replaced]
        first, starts, again = dict[str, int](), Counter[str](), set[str]()
        for now, line in enumerate(lines):
            if not (found := re.search(r"job \d+ of a campaign|failing \d+|aborted \d+", line)):
                continue
            job, starts[line] = found[0], starts[line] + 1
            begun = first.setdefault(job, now)
            meanwhile = [what for what, begin, end in spans if begun < end and begin < now]
            explained = [what for what in meanwhile if "killed" in what or job in self._workflows]
            assert starts[line] <= 1 + len(explained), f"{line}: started {starts[line]} times; replaced: {meanwhile}"
            if starts[line] > 1:
                again.add(job)
        # A worker holds one running and one waiting message per slot.
        assert len(again) <= 2 * SLOTS * len(self._replaced), again

    @property
    def _workflows(self) -> set[str]:
        """The prompts of the jobs that are handed over to workflows."""
        campaign = self.campaign
        return {campaign.prompts[job_id] for job_id, kind in campaign.kinds.items() if kind in ("chain", "chord")}

    def _look_for_artifacts(self) -> None:
        for job_id, kind in self.campaign.kinds.items():
            if kind == "artifacts":
                sizes = Counter(each["size_bytes"] for each in self.fleet.sandbox.store.artifacts(job_id))
                assert sizes.keys() == {len(self.campaign.prompts[job_id]), 2**20 + 1}

    def _look_for_misunderstandings(self) -> None:
        for process in self.fleet.processes:
            found = [line for line in process.output.splitlines() if MISUNDERSTANDING.search(line)]
            assert not found, f"{process.log.name}: {found[:5]}"


@pytest.fixture
def upgrade(sandbox: Sandbox, redis_server: RedisServer, tmp_path: Path, path_before: str) -> Iterator[Upgrade]:
    fleet = Fleet(
        sandbox,
        broker=redis_server.url(0),
        ledger=redis_server.url(1),
        folder=tmp_path,
        app="support.proj_upgrade",
    )
    fleet.environment |= {
        "PROJ_CONF": json.dumps({"result_backend": redis_server.url(2), "result_chord_retry_interval": 0.2}),
        "MODELREINS_MAX_ATTEMPTS": "20",
        "MODELREINS_LEASE": "8",
    }
    try:
        yield Upgrade(fleet, path_before)
    finally:
        fleet.stop()


def test_version_before_is_another_one(path_before: str) -> None:
    """Processes of the previous version import its code, not the code of this version."""
    program = "import mr_celery, mr_celery.cli; print(mr_celery.__file__, mr_celery.cli.__file__)"
    found = subprocess.run(
        [str(BIN / "python"), "-c", program],
        env={**os.environ, "PYTHONPATH": path_before},
        capture_output=True,
        text=True,
        check=True,
    )
    folder = path_before.partition(os.pathsep)[0]
    assert all(path.startswith(folder) for path in found.stdout.split())


@pytest.mark.long
@pytest.mark.timeout(600)
def test_processes_are_replaced_one_by_one_under_load(upgrade: Upgrade) -> None:
    workers_first, bridge_first = ("worker 1", "worker 2", "bridge"), ("bridge", "worker 1", "worker 2")
    upgrade.move(THIS, workers_first[:1])
    mixed = upgrade.check(THIS)
    assert re.search(
        r"^versions +warning +'w': versions of mr-celery differ: .+ in bridge .+ in worker ", mixed, re.M
    ), mixed
    upgrade.move(THIS, workers_first[1:])
    upgrade.audit(THIS)
    upgrade.move(BEFORE, bridge_first)
    upgrade.audit(BEFORE)
    upgrade.move(THIS, bridge_first)
    upgrade.audit(THIS)
