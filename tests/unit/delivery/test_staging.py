"""Large artifacts are stored before the outcome is recorded: in the spool, or otherwise on the server at once."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from mr_celery import Artifact, Job, Result, Review, completion
from mr_celery.backoff import retry_until
from mr_celery.delivery import staging as staging_module
from mr_celery.delivery.attachments import Attachments
from mr_celery.delivery.packing import LEDGER_BLOB_LIMIT, PackedOutcome, pack
from mr_celery.delivery.server_routes import ServerRoutes
from mr_celery.delivery.staging import RETRY_SECONDS, Staging
from mr_celery.errors import JobAborted, WorkerError
from mr_celery.spool import Spool, SpoolName
from mr_celery.spool.folder import FolderSpool
from support.clock import Clock
from support.ledgers import refusal

LARGE = 3 * LEDGER_BLOB_LIMIT


class FakeServer:
    """A server that records uploads, after the errors that the test prepares."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.uploads: list[tuple[str, int, int]] = []
        self.keys: set[str] = set()

    def upload(self, source: Any, **fields: Any) -> dict[str, Any]:
        answer = self.answers.pop(0) if self.answers else {"slug": f"slug-{fields['filename']}"}
        self.keys.add(fields["idempotency_key"])
        if isinstance(answer, Exception):
            raise answer
        size = 0
        while data := source.read(2**20):
            size += len(data)
        self.uploads.append((fields["filename"], fields["job_id"], size))
        return answer  # type: ignore[no-any-return]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the pauses between tries."""
    made = Clock()
    monkeypatch.setattr(staging_module, "retry_until", partial(retry_until, sleep=made.advance, clock=made))
    return made


@pytest.fixture
def spool(tmp_path: Path) -> FolderSpool:
    return FolderSpool(tmp_path / "spool", "w", limit=10 * LARGE)


def nothing() -> None:
    """The beat of a run that continues."""


def stage(
    packed: PackedOutcome,
    *,
    spool: Spool | None = None,
    server: FakeServer | None = None,
    beat: Callable[[], object] = nothing,
    routes: ServerRoutes | None = None,
    **options: Any,
) -> PackedOutcome:
    api: Any = None if server is None else lambda: server
    of_server: Any = None if routes is None else lambda: routes
    return Staging(7, "mr-7-1-ab", "cd", spool=spool, api=api, routes=of_server, beat=beat, **options).stage(packed)[0]


def film(folder: Path, name: str = "film.mp4") -> Artifact:
    path = folder / name
    path.write_bytes(os.urandom(LARGE))
    return Artifact(path=path)


def packed_of(*artifacts: Artifact, attachments: Attachments | None = None, **fields: Any) -> PackedOutcome:
    result = Result("made it", artifacts=artifacts, **fields)
    return pack(result, Job({"id": 7}), attachments or Attachments())


def kept(spool: Spool) -> list[str]:
    return sorted(entry.file for entry in spool.entries())


# -- where it goes -----------------------------------------------------------------------------------------


def test_small_ones_stay(spool: FolderSpool) -> None:
    packed = packed_of(Artifact(data=bytes(LEDGER_BLOB_LIMIT)))
    assert stage(packed, spool=spool, server=FakeServer()) is packed
    assert kept(spool) == []


@pytest.mark.parametrize("server", [None, FakeServer()], ids=["the bridge delivers", "the worker delivers"])
def test_large_ones_go_to_the_spool(spool: FolderSpool, tmp_path: Path, server: FakeServer | None) -> None:
    packed = stage(packed_of(Artifact(data=b"small"), film(tmp_path)), spool=spool, server=server)
    name = SpoolName("mr-7-1-ab", "cd", 1)
    assert [upload.spooled for upload in packed.outcome.uploads] == [None, str(name)]
    assert (packed.outcome.status, packed.outcome.text) == ("done", "made it")
    with spool.open(name) as file:
        assert file.read() == (tmp_path / "film.mp4").read_bytes()
    assert server is None or server.uploads == []


def test_without_a_spool_they_go_to_the_server(tmp_path: Path) -> None:
    server = FakeServer({"slug": "abc", "url": "https://cdn.test/abc"})
    (upload,) = stage(packed_of(film(tmp_path)), server=server).outcome.uploads
    assert (upload.slug, upload.url) == ("abc", "https://cdn.test/abc")
    assert server.uploads == [("film.mp4", 7, LARGE)]
    assert server.keys == {"mr-7-1-ab-cd-artifact-0"}


def test_with_a_full_spool_they_go_to_the_server_at_once(tmp_path: Path, clock: Clock) -> None:
    server, began = FakeServer(), clock.now
    full = FolderSpool(tmp_path / "spool", "w", limit=LARGE - 1)
    (upload,) = stage(packed_of(film(tmp_path)), spool=full, server=server).outcome.uploads
    assert (upload.slug, upload.spooled) == ("slug-film.mp4", None)
    assert (kept(full), clock.now) == ([], began)


def test_with_a_broken_spool_they_go_to_the_server(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("not a folder")
    broken = FolderSpool(tmp_path / "spool", "w", limit=10 * LARGE)
    (upload,) = stage(packed_of(film(tmp_path)), spool=broken, server=FakeServer()).outcome.uploads
    assert upload.slug == "slug-film.mp4"


# -- while there is no place -------------------------------------------------------------------------------


def test_where_only_the_bridge_delivers_they_wait_for_room(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    tight = FolderSpool(tmp_path / "spool", "w", limit=LARGE)
    stage(packed_of(film(tmp_path)), spool=tight)
    (first,) = kept(tight)

    def beat() -> None:
        if clock.now > 1100.0:
            tight.remove(first)

    (upload,) = stage(packed_of(film(tmp_path)), spool=tight, beat=beat).outcome.uploads
    assert upload.spooled == "mr-7-1-ab.cd.0"
    assert 1100.0 < clock.now < 1000.0 + RETRY_SECONDS


def full_spool(folder: Path) -> FolderSpool:
    """A spool with room for one large artifact, already in use."""
    spool = FolderSpool(folder / "spool", "w", limit=LARGE)
    spool.put(SpoolName("mr-1-1-ab", "cd", 0), io.BytesIO(b"one"), 3)
    return spool


def test_they_do_not_wait_for_ever(tmp_path: Path, clock: Clock) -> None:
    full = full_spool(tmp_path)
    outcome = stage(packed_of(film(tmp_path)), spool=full).outcome
    assert outcome.status == "failed"
    assert outcome.text == (
        f"the artifact 'film.mp4' (3.0 MiB) could not be stored: the spool {full} holds 3 bytes of 3.0 MiB; "
        "another 3.0 MiB do not fit (see MODELREINS_SPOOL_URL and MODELREINS_SPOOL_LIMIT)\n\nmade it"
    )
    assert outcome.uploads[0].refused
    assert RETRY_SECONDS - 15.0 < clock.now - 1000.0 <= RETRY_SECONDS


def test_what_would_never_find_room_does_not_wait_for_it(tmp_path: Path, clock: Clock) -> None:
    small = FolderSpool(tmp_path / "spool", "w", limit=LARGE - 1)
    assert stage(packed_of(film(tmp_path)), spool=small).outcome.status == "failed"
    assert clock.now == 1000.0


def test_where_only_the_bridge_delivers_a_missing_spool_names_the_setting(tmp_path: Path, clock: Clock) -> None:
    outcome = stage(packed_of(Artifact(data=b"small"), film(tmp_path))).outcome
    assert (outcome.status, [upload.refused for upload in outcome.uploads]) == ("failed", [False, True])
    assert "too large to wait in the ledger, and this worker does not deliver: set MODELREINS_SPOOL_URL" in outcome.text
    assert clock.now == 1000.0


def test_a_server_in_trouble_is_tried_again(tmp_path: Path, clock: Clock) -> None:
    server = FakeServer(refusal(503), refusal(None), refusal(401), {})
    (upload,) = stage(packed_of(film(tmp_path)), server=server).outcome.uploads
    assert upload.slug == "slug-film.mp4"
    assert server.uploads[-1] == ("film.mp4", 7, LARGE)
    assert len(server.keys) == 1


def test_a_server_that_stays_away_is_given_up_with_a_hint(tmp_path: Path, clock: Clock) -> None:
    server = FakeServer(*[refusal(503)] * 1000)
    outcome = stage(packed_of(film(tmp_path)), server=server).outcome
    assert outcome.text == (
        "the artifact 'film.mp4' (3.0 MiB) could not be stored: POST /x -> 503: the server's words "
        "(with MODELREINS_SPOOL_URL it would have waited for the bridge)\n\nmade it"
    )
    assert RETRY_SECONDS - 30.0 < clock.now - 1000.0 <= RETRY_SECONDS


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_what_the_server_refuses_for_good_is_not_tried_again(tmp_path: Path, clock: Clock, status: int) -> None:
    server = FakeServer(refusal(status))
    outcome = stage(packed_of(film(tmp_path)), server=server).outcome
    assert (server.answers, server.uploads, clock.now) == ([], [], 1000.0)
    assert (outcome.status, outcome.uploads[0].refused) == ("failed", True)
    assert outcome.text.endswith(f"could not be stored: POST /x -> {status}: the server's words\n\nmade it")


def test_a_web_hook_waits_only_as_long_as_it_can_for_a_server_that_stays_away(tmp_path: Path, clock: Clock) -> None:
    server = FakeServer(*[refusal(503)] * 1000)
    made = stage(packed_of(film(tmp_path)), server=server, retry_seconds=completion.RETRY_SECONDS)
    assert made.outcome.status == "failed"
    assert clock.now - 1000.0 <= completion.RETRY_SECONDS


@pytest.mark.parametrize("answers", [[refusal(413)], [refusal(503)] * 1000], ids=["refused", "away"])
def test_the_servers_words_are_not_logged(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, answers: list[Exception]
) -> None:
    stage(packed_of(film(tmp_path)), server=FakeServer(*answers))
    assert "artifact 0 could not be stored: POST /x -> " in caplog.text
    assert "the server's words" not in caplog.text


class Elsewhere(io.BytesIO):
    """A file object whose error repeats its content, as in some libraries."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() > LARGE // 2:
            raise OSError(f"secret words in {self.tell()}")
        return super().read(size)


def test_names_of_files_and_words_of_other_errors_are_not_logged(
    tmp_path: Path, spool: FolderSpool, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    changed = film(tmp_path, "secret name.mp4")
    broken = Artifact(data=Elsewhere(b"x" * LARGE), filename="secret name.mp4")
    for artifact, reason in (
        (changed, "an artifact changed after the handler had returned it"),
        (broken, "an artifact cannot be read: OSError"),
    ):
        packed = packed_of(artifact)
        os.truncate(tmp_path / "secret name.mp4", LARGE - 1)
        outcome = stage(packed, spool=spool).outcome
        assert "secret name.mp4" in outcome.text
        assert outcome.reason == f"an artifact could not be stored: {reason}"
        assert f"artifact 0 could not be stored: {reason}" in caplog.text
    assert "secret words" in outcome.text
    assert "secret" not in caplog.text


def test_the_progress_of_a_transfer_is_logged_without_the_name_of_its_file(
    tmp_path: Path, spool: FolderSpool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="mr_celery")
    monkeypatch.setattr("mr_celery.delivery.progress.LOG_SECONDS", 0.0)
    stage(packed_of(film(tmp_path, "secret.mp4")), spool=spool)
    assert "job=7 artifact 0: " in caplog.text
    assert "secret" not in caplog.text


def test_an_upload_that_cannot_be_stored_does_not_stop_the_others(spool: FolderSpool, tmp_path: Path) -> None:
    packed = packed_of(film(tmp_path, "a.mp4"), film(tmp_path, "b.mp4"), film(tmp_path, "c.mp4"))
    (tmp_path / "b.mp4").unlink()
    outcome = stage(packed, spool=spool).outcome
    assert [upload.refused for upload in outcome.uploads] == [False, True, False]
    assert kept(spool) == ["mr-7-1-ab.cd.0", "mr-7-1-ab.cd.2"]
    assert outcome.status == "failed"


def test_a_job_that_fails_for_it_files_nothing_of_its_result(tmp_path: Path) -> None:
    attachments = Attachments()
    promised = attachments.review("report", "filed", "", preview=None, target=None, job_id=7)["id"]
    packed = packed_of(film(tmp_path), attachments=attachments, reviews=[Review("image", "returned")])
    assert [review.promised for review in stage(packed).outcome.reviews] == [promised]


def test_a_file_that_changed_is_not_tried_again(spool: FolderSpool, tmp_path: Path, clock: Clock) -> None:
    packed = packed_of(film(tmp_path))
    os.truncate(tmp_path / "film.mp4", LARGE - 1)
    server = FakeServer()
    for outcome in (stage(packed, spool=spool).outcome, stage(packed, server=server).outcome):
        assert "changed after the handler had returned it" in outcome.text
        assert "MODELREINS" not in outcome.text
    assert (kept(spool), server.uploads, clock.now) == ([], [], 1000.0)


# -- stopped -----------------------------------------------------------------------------------------------


class Beat:
    """The beat of a run that must stop after a number of beats."""

    def __init__(self, error: Exception, *, after: int) -> None:
        self.left = after
        self._error = error

    def __call__(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise self._error


@pytest.mark.parametrize("error", [JobAborted("aborted"), SoftTimeLimitExceeded(600)], ids=repr)
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_stopped_run_leaves_nothing_in_the_spool(
    spool: FolderSpool, tmp_path: Path, error: Exception, after: int
) -> None:
    with pytest.raises(type(error)):
        stage(packed_of(film(tmp_path)), spool=spool, beat=Beat(error, after=after))
    assert kept(spool) == []


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_stopped_run_ends_its_upload(tmp_path: Path, after: int) -> None:
    server = FakeServer()
    with pytest.raises(JobAborted):
        stage(packed_of(film(tmp_path)), server=server, beat=Beat(JobAborted("aborted"), after=after))
    assert server.uploads == []


def test_a_stopped_run_does_not_wait_for_room(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(JobAborted):
        stage(packed_of(film(tmp_path)), spool=full_spool(tmp_path), beat=Beat(JobAborted("aborted"), after=2))
    assert clock.now < 1010.0


def test_a_stopped_run_does_not_wait_for_the_server(tmp_path: Path, clock: Clock) -> None:
    server = FakeServer(*[WorkerError("POST /x -> network: refused", retryable=True)] * 1000)
    with pytest.raises(JobAborted):
        stage(packed_of(film(tmp_path)), server=server, beat=Beat(JobAborted("aborted"), after=2))
    assert clock.now < 1010.0


# -- a server without the route ------------------------------------------------------------------------------


class FakeRoutes:
    """The known routes of a server. A route counts as missing after some responses."""

    def __init__(self, times: int, without: str) -> None:
        self.left = times
        self.without = without
        self.worked = 0

    def surely_missing(self, error: WorkerError) -> bool:
        self.left -= 1
        return self.left <= 0

    def works(self, route: str) -> None:
        self.worked += 1


@pytest.mark.parametrize(("how", "status"), [("fail", "failed"), ("close", "done")])
@pytest.mark.usefixtures("clock")
def test_on_a_server_that_surely_has_no_artifacts_they_are_listed(tmp_path: Path, how: str, status: str) -> None:
    routes = FakeRoutes(3, how)
    server = FakeServer(*[WorkerError("POST /artifacts/upload -> 404: Not Found", status=404)] * 3)
    packed = packed_of(Artifact(data=b"small", filename="a.txt"), film(tmp_path), reviews=[Review("t", "Title", "c")])
    outcome = stage(packed, server=server, routes=cast(ServerRoutes, routes)).outcome
    assert (outcome.status, [upload.refused for upload in outcome.uploads]) == (status, [True, True])
    for part in ("made it", "'a.txt'", "'film.mp4'", "review 'Title'", "ModelReins server 4.6.0 or later"):
        assert part in outcome.text


@pytest.mark.usefixtures("clock")
def test_a_passing_404_costs_a_large_one_no_more_than_a_while(tmp_path: Path) -> None:
    routes = FakeRoutes(99, "fail")
    server = FakeServer(*[WorkerError("POST /artifacts/upload -> 404: Not Found", status=404)] * 5)
    packed = stage(packed_of(film(tmp_path)), server=server, routes=cast(ServerRoutes, routes))
    assert packed.outcome.uploads[0].slug
    assert routes.worked == 1
