"""The spool keeps what somebody will deliver, and nothing else for long."""

from __future__ import annotations

import io
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from mr_celery.bridge.sweeper import GRACE, INTERVAL, Sweeper
from mr_celery.errors import LedgerUnavailable
from mr_celery.ledger import RunKey
from mr_celery.outcome import Outcome, Upload
from mr_celery.spool import Entry, SpoolName
from mr_celery.spool.folder import FolderSpool
from mr_celery.spool.names import folder_of
from support.ledgers import LATER, Desk, make_desk

NOW = 2e9
OLD = NOW - GRACE - 1


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Desk:
    made = make_desk(monkeypatch)
    made.office.spool = FolderSpool(tmp_path, "w", limit=10**6)
    return made


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """The folder in which the files are."""
    return tmp_path / folder_of("w")


@pytest.fixture
def sweeper(desk: Desk) -> Sweeper:
    return Sweeper(desk.office, now=lambda: NOW)


def spooled(desk: Desk, inside: Path, task_id: str, *, nonce: str = "cd", index: int = 0, at: float = OLD) -> str:
    """A file of a run, written at that time. Returns its name."""
    assert desk.office.spool is not None
    name = SpoolName(task_id, nonce, index)
    desk.office.spool.put(name, io.BytesIO(b"abc"), 3)
    os.utime(inside / str(name), (at, at))
    return str(name)


def finish(desk: Desk, run: RunKey, *uploads: Upload) -> None:
    outcome = Outcome("done", "made it", uploads=uploads)
    assert desk.books.ledger.finish(run, outcome, blobs=[b""] * len(uploads), deliver_seconds=LATER) == "finished"


def upload(file: str | None, **fields: Any) -> Upload:
    return Upload("video/mp4", "a.mp4", 3, spooled=file, **fields)


def kept(inside: Path) -> list[str]:
    return sorted(path.name for path in inside.iterdir())


# -- what is needed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["claimed", "sent", "running"])
def test_the_file_of_a_run_that_may_go_on_stays(desk: Desk, sweeper: Sweeper, inside: Path, state: str) -> None:
    file = spooled(desk, inside, desk.bring(state).task_id)
    sweeper.run_once()
    assert kept(inside) == [file]


def test_the_file_of_an_outcome_that_waits_stays(desk: Desk, sweeper: Sweeper, inside: Path) -> None:
    run = desk.bring("running")
    file = spooled(desk, inside, run.task_id, index=1)
    finish(desk, run, upload(None), upload(file))
    sweeper.run_once()
    assert kept(inside) == [file]


def test_a_file_that_is_not_old_stays_whoever_it_belongs_to(desk: Desk, sweeper: Sweeper, inside: Path) -> None:
    file = spooled(desk, inside, "mr-99-1-ab", at=NOW - GRACE)
    (inside / "half.part").write_text("half of it")
    os.utime(inside / "half.part", (NOW, NOW))
    sweeper.run_once()
    assert kept(inside) == ["half.part", file]


# -- what is not -------------------------------------------------------------------------------------------


def test_the_file_of_a_job_that_nobody_knows_goes(desk: Desk, sweeper: Sweeper, inside: Path) -> None:
    spooled(desk, inside, "mr-99-1-ab")
    sweeper.run_once()
    assert kept(inside) == []


def test_what_a_dead_writer_left_goes(desk: Desk, sweeper: Sweeper, inside: Path) -> None:
    run = desk.bring("running")
    spooled(desk, inside, run.task_id)
    (inside / f"{run.task_id}.cd.1.0123abcd.part").write_text("half of it")
    os.utime(inside / f"{run.task_id}.cd.1.0123abcd.part", (OLD, OLD))
    sweeper.run_once()
    assert kept(inside) == [f"{run.task_id}.cd.0"]


def test_the_file_of_an_earlier_attempt_goes(desk: Desk, sweeper: Sweeper, inside: Path) -> None:
    run = desk.bring("running")
    spooled(desk, inside, "mr-1-0-ab")
    file = spooled(desk, inside, run.task_id)
    sweeper.run_once()
    assert kept(inside) == [file]


def test_the_file_of_an_earlier_execution_goes_when_the_outcome_is_there(
    desk: Desk, sweeper: Sweeper, inside: Path
) -> None:
    run = desk.bring("running")
    spooled(desk, inside, run.task_id, nonce="aa")
    file = spooled(desk, inside, run.task_id, nonce="bb")
    finish(desk, run, upload(file))
    sweeper.run_once()
    assert kept(inside) == [file]


def test_a_delivered_file_goes(desk: Desk, sweeper: Sweeper, inside: Path) -> None:
    run = desk.bring("running")
    files = [spooled(desk, inside, run.task_id, index=index) for index in range(2)]
    finish(desk, run, *map(upload, files))
    desk.books.make_due("finished")
    (delivery,) = desk.books.ledger.collect(1, hold_seconds=LATER)
    assert desk.books.ledger.delivered_part(delivery, "artifact:0", "{}", hold_seconds=LATER)
    sweeper.run_once()
    assert kept(inside) == files[1:]


def test_a_file_that_the_server_will_not_take_goes(desk: Desk, sweeper: Sweeper, inside: Path) -> None:
    run = desk.bring("running")
    finish(desk, run, upload(spooled(desk, inside, run.task_id), refused=True))
    sweeper.run_once()
    assert kept(inside) == []


def test_the_file_of_a_job_that_is_over_goes_though_the_job_is_remembered(
    desk: Desk, sweeper: Sweeper, inside: Path
) -> None:
    run = desk.bring("running")
    finish(desk, run, upload(spooled(desk, inside, run.task_id)))
    assert desk.books.ledger.close(run.job_id, run.task_id, "superseded")
    assert desk.books.record().state == "closed"
    sweeper.run_once()
    assert kept(inside) == []


@pytest.mark.parametrize("finished", [True, False])
def test_the_file_of_an_aborted_job_goes(desk: Desk, sweeper: Sweeper, inside: Path, finished: bool) -> None:
    run = desk.bring("running")
    file = spooled(desk, inside, run.task_id)
    if finished:
        finish(desk, run, upload(file))
    assert desk.books.ledger.abort(run.job_id, "for a test")
    sweeper.run_once()
    assert kept(inside) == []


# -- when it cannot ----------------------------------------------------------------------------------------


def test_it_comes_again_after_a_while(sweeper: Sweeper) -> None:
    assert sweeper.run_once() == INTERVAL
    assert GRACE >= INTERVAL


def test_without_a_spool_there_is_nothing_to_do(desk: Desk, sweeper: Sweeper) -> None:
    desk.office.spool = None
    assert sweeper.run_once() == INTERVAL


def test_it_tells_what_it_removes(desk: Desk, sweeper: Sweeper, inside: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    file = spooled(desk, inside, "mr-99-1-ab")
    sweeper.run_once()
    assert caplog.messages == [f"removed from the spool, since no job needs it: {file}, 3 bytes"]


def test_what_is_no_file_is_left_alone(
    desk: Desk, sweeper: Sweeper, inside: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spooled(desk, inside, "mr-99-1-ab")
    (inside / "a folder").mkdir()
    os.utime(inside / "a folder", (OLD, OLD))
    sweeper.run_once()
    assert kept(inside) == ["a folder"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_one_that_cannot_be_removed_keeps_no_other(
    desk: Desk, sweeper: Sweeper, inside: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = [spooled(desk, inside, f"mr-{job_id}-1-ab") for job_id in (97, 98, 99)]
    remove = os.unlink

    def unlink(path: Path) -> None:
        if path.name == files[1]:
            raise PermissionError("not this one")
        remove(path)

    monkeypatch.setattr(os, "unlink", unlink)
    assert sweeper.run_once() == INTERVAL
    assert kept(inside) == [files[1]]
    assert "cannot be used: not this one" in caplog.text


def test_a_spool_that_is_away_is_told_and_tried_again(
    desk: Desk, tmp_path: Path, sweeper: Sweeper, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    desk.office.spool = FolderSpool(tmp_path / "file", "w", limit=1)
    assert sweeper.run_once() == INTERVAL
    (record,) = caplog.records
    assert (record.levelname, record.exc_info) == ("WARNING", None)


def test_while_the_ledger_is_away_nothing_is_removed(
    desk: Desk, sweeper: Sweeper, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*arguments: object) -> None:
        raise LedgerUnavailable("away")

    file = spooled(desk, inside, "mr-99-1-ab")
    monkeypatch.setattr(desk.office.ledger, "read", away)
    with pytest.raises(LedgerUnavailable):
        sweeper.run_once()
    assert kept(inside) == [file]


def test_a_file_of_unknown_age_stays(desk: Desk) -> None:
    removed: list[str] = []

    class Ageless(FolderSpool):
        def entries(self) -> list[Entry]:
            return [Entry(None, "half", 3, float("inf")), Entry(None, "old", 3, OLD)]

        def remove(self, file: str) -> None:
            removed.append(file)

    desk.office.spool = Ageless("/nowhere", "w", limit=1)
    Sweeper(desk.office, now=lambda: NOW).run_once()
    assert removed == ["old"]
