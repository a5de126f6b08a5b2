"""The sweeper keeps the spool files that a job needs, and removes the others."""

from __future__ import annotations

import io
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from mr_celery.bridge.limits import SWEEP_AGE
from mr_celery.bridge.recovery.sweeper import Sweeper
from mr_celery.errors import LedgerUnavailable
from mr_celery.ledger import DeliveryKey, RunKey
from mr_celery.outcome import Outcome, Upload
from mr_celery.spool import Entry, SpoolName
from mr_celery.spool.folder import FolderSpool
from mr_celery.spool.names import folder_of
from support.ledgers import LATER, BridgeHarness, make_harness

NOW = 2e9
OLD = NOW - SWEEP_AGE - 1


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> BridgeHarness:
    made = make_harness(monkeypatch)
    made.context.spool = FolderSpool(tmp_path, "w", limit=10**6)
    return made


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """The folder of the files."""
    return tmp_path / folder_of("w")


@pytest.fixture
def sweeper(harness: BridgeHarness) -> Sweeper:
    return Sweeper(harness.context, now=lambda: NOW)


def spooled(
    harness: BridgeHarness, inside: Path, task_id: str, *, nonce: str = "cd", index: int = 0, at: float = OLD
) -> str:
    """Write a file of a run with this modification time. Returns its name."""
    assert harness.context.spool is not None
    name = SpoolName(task_id, nonce, index)
    harness.context.spool.put(name, io.BytesIO(b"abc"), 3)
    os.utime(inside / str(name), (at, at))
    return str(name)


def finish(harness: BridgeHarness, run: RunKey, *uploads: Upload) -> None:
    outcome = Outcome("done", "made it", uploads=uploads)
    assert harness.kit.ledger.finish(run, outcome, blobs=[b""] * len(uploads), deliver_seconds=LATER) == "finished"


def upload(file: str | None, **fields: Any) -> Upload:
    return Upload("video/mp4", "a.mp4", 3, spooled=file, **fields)


def kept(inside: Path) -> list[str]:
    return sorted(path.name for path in inside.iterdir())


# -- files that are kept -------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["claimed", "sent", "running", "deferred"])
def test_the_file_of_a_run_in_progress_is_kept(
    harness: BridgeHarness, sweeper: Sweeper, inside: Path, state: str
) -> None:
    file = spooled(harness, inside, harness.bring(state).task_id)
    sweeper.run_once()
    assert kept(inside) == [file]


def test_the_file_of_an_undelivered_outcome_is_kept(harness: BridgeHarness, sweeper: Sweeper, inside: Path) -> None:
    run = harness.bring("running")
    file = spooled(harness, inside, run.task_id, index=1)
    finish(harness, run, upload(None), upload(file))
    sweeper.run_once()
    assert kept(inside) == [file]


def test_a_recent_file_is_kept(harness: BridgeHarness, sweeper: Sweeper, inside: Path) -> None:
    file = spooled(harness, inside, "mr-99-1-ab", at=NOW - SWEEP_AGE)
    (inside / "half.part").write_text("half of it")
    os.utime(inside / "half.part", (NOW, NOW))
    sweeper.run_once()
    assert kept(inside) == ["half.part", file]


def test_a_file_is_kept_whose_upload_has_another_index_in_the_outcome_than_in_its_run(
    harness: BridgeHarness, sweeper: Sweeper, inside: Path
) -> None:
    run = harness.bring("running")
    first, second = (spooled(harness, inside, run.task_id, nonce=nonce) for nonce in ("ab", "cd"))
    finish(harness, run, upload(first), upload(second))
    key = DeliveryKey(run.job_id, run.task_id, 1)
    assert harness.kit.ledger.delivered_part(key, "artifact:0", "slug", lease=LATER)
    sweeper.run_once()
    assert kept(inside) == [second]


# -- files that are removed ----------------------------------------------------------------------------------


def test_the_file_of_an_unknown_job_is_removed(harness: BridgeHarness, sweeper: Sweeper, inside: Path) -> None:
    spooled(harness, inside, "mr-99-1-ab")
    sweeper.run_once()
    assert kept(inside) == []


def test_the_file_of_a_dead_writer_is_removed(harness: BridgeHarness, sweeper: Sweeper, inside: Path) -> None:
    run = harness.bring("running")
    spooled(harness, inside, run.task_id)
    (inside / f"{run.task_id}.cd.1.0123abcd.part").write_text("half of it")
    os.utime(inside / f"{run.task_id}.cd.1.0123abcd.part", (OLD, OLD))
    sweeper.run_once()
    assert kept(inside) == [f"{run.task_id}.cd.0"]


def test_the_file_of_an_earlier_attempt_is_removed(harness: BridgeHarness, sweeper: Sweeper, inside: Path) -> None:
    run = harness.bring("running")
    spooled(harness, inside, "mr-1-0-ab")
    file = spooled(harness, inside, run.task_id)
    sweeper.run_once()
    assert kept(inside) == [file]


def test_the_file_of_an_earlier_run_is_removed_after_the_outcome(
    harness: BridgeHarness, sweeper: Sweeper, inside: Path
) -> None:
    run = harness.bring("running")
    spooled(harness, inside, run.task_id, nonce="aa")
    file = spooled(harness, inside, run.task_id, nonce="bb")
    finish(harness, run, upload(file))
    sweeper.run_once()
    assert kept(inside) == [file]


def test_a_delivered_file_is_removed(harness: BridgeHarness, sweeper: Sweeper, inside: Path) -> None:
    run = harness.bring("running")
    files = [spooled(harness, inside, run.task_id, index=index) for index in range(2)]
    finish(harness, run, *map(upload, files))
    harness.kit.make_due("finished")
    (delivery,) = harness.kit.ledger.collect(1, lease=LATER)
    assert harness.kit.ledger.delivered_part(delivery, "artifact:0", "{}", lease=LATER)
    sweeper.run_once()
    assert kept(inside) == files[1:]


def test_a_file_that_the_server_refused_is_removed(harness: BridgeHarness, sweeper: Sweeper, inside: Path) -> None:
    run = harness.bring("running")
    finish(harness, run, upload(spooled(harness, inside, run.task_id), refused=True))
    sweeper.run_once()
    assert kept(inside) == []


def test_the_file_of_a_closed_job_is_removed(harness: BridgeHarness, sweeper: Sweeper, inside: Path) -> None:
    run = harness.bring("running")
    finish(harness, run, upload(spooled(harness, inside, run.task_id)))
    assert harness.kit.ledger.close(run.job_id, run.task_id, "superseded")
    assert harness.kit.record().state == "closed"
    sweeper.run_once()
    assert kept(inside) == []


@pytest.mark.parametrize("finished", [True, False])
def test_the_file_of_an_aborted_job_is_removed(
    harness: BridgeHarness, sweeper: Sweeper, inside: Path, finished: bool
) -> None:
    run = harness.bring("running")
    file = spooled(harness, inside, run.task_id)
    if finished:
        finish(harness, run, upload(file))
    assert harness.kit.ledger.abort(run.job_id, "for a test")
    sweeper.run_once()
    assert kept(inside) == []


# -- failures ------------------------------------------------------------------------------------------------


def test_sweeps_have_an_interval(sweeper: Sweeper) -> None:
    assert 0.0 < sweeper.run_once() < SWEEP_AGE


def test_without_a_spool_there_is_nothing_to_do(harness: BridgeHarness, sweeper: Sweeper) -> None:
    harness.context.spool = None
    assert sweeper.run_once() > 0.0


def test_it_logs_the_files_that_it_removes(
    harness: BridgeHarness, sweeper: Sweeper, inside: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = spooled(harness, inside, "mr-99-1-ab")
    sweeper.run_once()
    assert caplog.messages == [f"removed from the spool, since no job needs it: {file}, 3 bytes"]


def test_other_entries_are_left_alone(
    harness: BridgeHarness, sweeper: Sweeper, inside: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spooled(harness, inside, "mr-99-1-ab")
    (inside / "a folder").mkdir()
    os.utime(inside / "a folder", (OLD, OLD))
    sweeper.run_once()
    assert kept(inside) == ["a folder"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_file_that_cannot_be_removed_does_not_stop_the_others(
    harness: BridgeHarness,
    sweeper: Sweeper,
    inside: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    files = [spooled(harness, inside, f"mr-{job_id}-1-ab") for job_id in (97, 98, 99)]
    remove = os.unlink

    def unlink(name: str, **options: Any) -> None:
        if name == files[1]:
            raise PermissionError("not this one")
        remove(name, **options)

    monkeypatch.setattr(os, "unlink", unlink)
    assert sweeper.run_once() > 0.0
    assert kept(inside) == [files[1]]
    assert "cannot be used: not this one" in caplog.text


def test_an_unreachable_spool_is_logged_and_retried(
    harness: BridgeHarness, tmp_path: Path, sweeper: Sweeper, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    harness.context.spool = FolderSpool(tmp_path / "file", "w", limit=1)
    assert sweeper.run_once() > 0.0
    (record,) = caplog.records
    assert (record.levelname, record.exc_info) == ("WARNING", None)


def test_nothing_is_removed_while_the_ledger_is_unreachable(
    harness: BridgeHarness, sweeper: Sweeper, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*arguments: object) -> None:
        raise LedgerUnavailable("away")

    file = spooled(harness, inside, "mr-99-1-ab")
    monkeypatch.setattr(harness.context.ledger, "read", away)
    with pytest.raises(LedgerUnavailable):
        sweeper.run_once()
    assert kept(inside) == [file]


def test_a_file_of_unknown_age_is_kept(harness: BridgeHarness) -> None:
    removed: list[str] = []

    class Ageless(FolderSpool):
        def entries(self) -> list[Entry]:
            return [Entry(None, "half", 3, float("inf")), Entry(None, "old", 3, OLD)]

        def remove(self, file: str) -> None:
            removed.append(file)

    harness.context.spool = Ageless("/nowhere", "w", limit=1)
    Sweeper(harness.context, now=lambda: NOW).run_once()
    assert removed == ["old"]
