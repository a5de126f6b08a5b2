"""The store: its data, refused transitions and events."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mr_celery.errors import MrCeleryError
from mr_celery.sandbox.routing import NoEligibleWorkerError
from mr_celery.sandbox.states import TransitionError
from mr_celery.sandbox.store import SERVER_FIELDS, Store
from mr_celery.sandbox.values import MalformedError, NotFoundError
from support.clock import Clock


def events(store: Store, job_id: int) -> list[str]:
    return [each["event"] for each in store.events(job_id)]


def test_dispatched_job_has_all_fields(store: Store, clock: Clock) -> None:
    job = store.dispatch("hello", "w", {"tier": 2, "tags": ["a"], "input": {"deep": [None, 1.5]}})
    assert job == {
        "id": 1,
        "prompt": "hello",
        "assigned_to": "w",
        "status": "pending",
        "priority": "normal",
        "result": None,
        "created_at": clock.now,
        "claimed_by": None,
        "claimed_at": None,
        "closed_at": None,
        "tier": 2,
        "tags": ["a"],
        "input": {"deep": [None, 1.5]},
    }
    assert store.job(1) == job


def test_priority_defaults_to_normal(store: Store) -> None:
    assert store.dispatch("x", "w", {"priority": "high"})["priority"] == "high"
    assert store.dispatch("x", "w", {"priority": None})["priority"] == "normal"
    with pytest.raises(MalformedError, match="priority"):
        store.dispatch("x", "w", {"priority": 3})


@pytest.mark.parametrize("name", [*SERVER_FIELDS, "prompt"])
def test_dispatch_refuses_fields_of_the_server(store: Store, name: str) -> None:
    with pytest.raises(MalformedError, match=name):
        store.dispatch("x", "w", {name: "done"})
    assert store.jobs() == []


def test_lone_surrogates_are_replaced(store: Store) -> None:
    job = store.dispatch("a\ud800\x00", "w\udfff", {"k\ud800": "v\ud800"})
    assert (job["prompt"], job["assigned_to"], job["k\ufffd"]) == ("a\ufffd\x00", "w\ufffd", "v\ufffd")


def test_dispatch_without_a_worker_uses_the_last_present_one(store: Store, clock: Clock) -> None:
    with pytest.raises(NoEligibleWorkerError, match="no worker is present"):
        store.dispatch("x", None, {})
    store.report({"instance": "late"})
    clock.now += 1
    store.report({"instance": "later"})
    assert store.dispatch("x", None, {})["assigned_to"] == "later"
    clock.now += 59.5
    assert store.dispatch("x", None, {})["assigned_to"] == "later"
    clock.now += 0.5
    with pytest.raises(NoEligibleWorkerError):
        store.dispatch("x", None, {})


def test_presence_is_stored_per_worker_with_its_age(store: Store, clock: Clock) -> None:
    store.report({"instance": "a", "status": "active", "details": None, "tags": "x,y", "worker_type": "silicon"})
    clock.now += 10
    store.report({"instance": "b"})
    store.report({"instance": "a", "status": "busy"})
    clock.now += 60
    first, second = store.workers()
    assert {first["instance"], second["instance"]} == {"a", "b"}
    assert [each["age"] for each in (first, second)] == [60, 60]
    assert not first["present"]


def test_lifecycle_and_events(store: Store, clock: Clock) -> None:
    job_id = store.dispatch("x", "w", {})["id"]
    assert store.claim(job_id, "w") == "running"
    clock.now += 5
    assert store.close_job(job_id, "out\ud800", "escalated") == "escalated"
    job = store.job(job_id)
    assert (job["status"], job["result"], job["closed_at"] - job["claimed_at"]) == ("escalated", "out\ufffd", 5)
    assert store.requeue(job_id) == "pending"
    job = store.job(job_id)
    assert (job["result"], job["claimed_at"], job["closed_at"]) == (None, None, None)
    assert store.abort(job_id) == "failed"
    assert store.job(job_id)["result"] == "aborted by an operator"
    assert events(store, job_id) == ["dispatched", "claim", "close escalated", "requeue", "abort"]
    assert store.events(job_id)[2]["at"] == clock.now


def test_refused_transition_is_recorded_without_changes(store: Store) -> None:
    job_id = store.dispatch("x", "w", {})["id"]
    with pytest.raises(TransitionError, match="assigned to another worker"):
        store.claim(job_id, "v")
    with pytest.raises(TransitionError, match="cannot close a job that is pending"):
        store.close_job(job_id, "x", "done")
    assert store.job(job_id)["status"] == "pending"
    assert events(store, job_id) == [
        "dispatched",
        "refused: cannot claim a job that is assigned to another worker",
        "refused: cannot close a job that is pending",
    ]


def test_missing_rows_raise_not_found(store: Store) -> None:
    for act in (store.job, store.abort, store.requeue, store.review):
        with pytest.raises(NotFoundError, match=r"there is no (job|review) 7"):
            act(7)
    with pytest.raises(NotFoundError):
        store.claim(7, "w")
    with pytest.raises(NotFoundError):
        store.decide(7, "approved")
    with pytest.raises(NotFoundError):
        store.artifact("0" * 40)
    assert store.events() == []


def test_order_of_inbox_and_list(store: Store) -> None:
    for worker in ("w", "v", "w", "w"):
        store.dispatch("x", worker, {})
    store.claim(3, "w")
    assert [job["id"] for job in store.inbox("w", "pending")] == [1, 4]
    assert [job["id"] for job in store.inbox("w", "running")] == [3]
    assert store.inbox("W", "pending") == []
    assert [job["id"] for job in store.jobs()] == [4, 3, 2, 1]
    assert [job["id"] for job in store.jobs(worker="w", status="pending")] == [4, 1]
    assert [job["id"] for job in store.jobs(limit=2, offset=1)] == [3, 2]


def test_abort_all_aborts_open_jobs_only(store: Store) -> None:
    for _ in range(3):
        store.dispatch("x", "w", {})
    store.claim(1, "w")
    store.claim(2, "w")
    store.close_job(1, "kept", "done")
    assert store.abort_all() == [2, 3]
    assert [job["status"] for job in store.jobs()] == ["failed", "failed", "done"]
    assert store.job(1)["result"] == "kept"
    assert events(store, 3) == ["dispatched", "abort"]
    assert store.abort_all() == []


def test_concurrent_claims_and_closes_have_one_winner(store: Store) -> None:
    job_id = store.dispatch("x", "w", {})["id"]
    together = threading.Barrier(8)

    def won(act: Callable[..., str], *arguments: str) -> int:
        try:
            act(job_id, *arguments)
        except TransitionError:
            return 0
        return 1

    def attempt(status: str) -> int:
        together.wait()
        return won(store.claim, "w") + won(store.close_job, status, status)

    with ThreadPoolExecutor(8) as pool:
        accepted = sum(pool.map(attempt, ["done", "failed"] * 4))
    assert accepted == 2
    noted = events(store, job_id)
    assert len(noted) == 1 + 16
    assert len([event for event in noted if event.startswith("close")]) == 1
    job = store.job(job_id)
    assert job["status"] == job["result"]


def test_lists_use_an_index(store: Store) -> None:
    for query in (
        "SELECT * FROM jobs WHERE assigned_to = 'w' AND status = 'pending' ORDER BY id",
        "SELECT * FROM jobs WHERE assigned_to = 'w' ORDER BY id DESC",
        "SELECT * FROM jobs WHERE status = 'pending' ORDER BY id DESC",
        "SELECT * FROM events WHERE job_id = 1 ORDER BY id",
    ):
        plan = " ".join(row["detail"] for row in store.rows(f"EXPLAIN QUERY PLAN {query}"))
        assert "USING INDEX" in plan
        assert "TEMP B-TREE" not in plan


def test_add_artifact(store: Store, clock: Clock) -> None:
    fields = {"content_type": "text/plain", "filename": "a.txt", "job_id": 3, "review_id": None, "expires_at": None}
    data = b"0123456789" * 300_000
    kept = store.add_artifact(io.BytesIO(data), fields)
    assert len(kept["slug"]) == 40
    assert kept["path"].read_bytes() == data
    assert {**kept, "path": None, "slug": None} == {
        **fields,
        "size_bytes": len(data),
        "created_at": clock.now,
        "path": None,
        "slug": None,
    }
    store.add_artifact(io.BytesIO(b""), {**fields, "job_id": 4})
    assert [each["size_bytes"] for each in store.artifacts()] == [len(data), 0]
    assert [each["job_id"] for each in store.artifacts(4)] == [4]
    kept["path"].unlink()
    with pytest.raises(NotFoundError):
        store.artifact(kept["slug"])


def test_failed_upload_leaves_nothing(store: Store) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        store.add_artifact(Broken(), {"content_type": "a/b", "filename": "x"})
    assert store.artifacts() == []
    assert list(store._folder.iterdir()) == []


def test_review_is_decided_once(store: Store) -> None:
    review = store.add_review({"type": "t", "title": "T", "content": "", "job_id": 1, "created_by": "worker:w"})
    assert review["status"] == "pending"
    assert store.decide(review["id"], "approved")["status"] == "approved"
    with pytest.raises(TransitionError, match="already approved"):
        store.decide(review["id"], "rejected")
    assert [each["status"] for each in store.reviews()] == ["approved"]


def test_decisions_have_a_time_and_a_reason_and_can_be_undone(store: Store, clock: Clock) -> None:
    job_id = store.dispatch("x", "w", {})["id"]
    review_id = store.add_review({"type": "t", "title": "T", "content": "", "job_id": job_id})["id"]
    with pytest.raises(TransitionError, match="not decided"):
        store.undo_decision(review_id)
    clock.now += 5
    rejected = store.decide(review_id, "rejected", " the tone is wrong ")
    assert (rejected["decided_at"], rejected["reason"]) == (clock.now, "the tone is wrong")
    undone = store.undo_decision(review_id)
    assert (undone["status"], undone["decided_at"], undone["reason"]) == ("pending", None, None)
    assert store.decide(review_id, "approved")["reason"] is None
    assert events(store, job_id)[1:] == [
        "review 1 rejected: the tone is wrong",
        "review 1 pending",
        "review 1 approved",
    ]


def test_file_keeps_the_state(tmp_path: Path) -> None:
    db = str(tmp_path / "s.db")
    first = Store(db)
    first.dispatch("x", "w", {"tier": 1})
    first.claim(1, "w")
    first.report({"instance": "w"})
    first.add_review({"type": "t", "title": "T", "content": "c"})
    slug = first.add_artifact(io.BytesIO(b"bytes"), {"content_type": "a/b", "filename": "x"})["slug"]
    first.close()
    assert (tmp_path / "s.db.artifacts" / slug).read_bytes() == b"bytes"
    second = Store(db)
    assert second.job(1)["status"] == "running"
    assert second.job(1)["tier"] == 1
    assert events(second, 1) == ["dispatched", "claim"]
    assert second.artifact(slug)["path"].read_bytes() == b"bytes"
    assert len(second.reviews()) == len(second.workers()) == 1
    assert second.dispatch("y", "w", {})["id"] == 2
    second.close()


@pytest.mark.parametrize("db", [None, ":memory:"])
def test_memory_store_removes_its_folder(db: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(db)
    folder = store._folder
    assert folder.is_dir()
    store.close()
    assert not folder.exists()
    assert list(tmp_path.iterdir()) == []


def test_unusable_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is not a database, and long enough to be read as a header " * 20)
    for db in (tmp_path / "text", tmp_path / "missing" / "s.db", tmp_path):
        with pytest.raises(MrCeleryError, match=f"cannot keep its state in {db}"):
            Store(str(db))


# -- other users of the machine ----------------------------------------------------------------------------


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_all_files_are_for_this_user_only(tmp_path: Path, no_umask: None) -> None:
    store = Store(str(tmp_path / "s.db"))
    store.dispatch("p", "w", {})
    store.add_artifact(io.BytesIO(b"x"), {"content_type": "text/plain", "filename": "f"})
    found = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert found == {"s.db": 0o600, "s.db-wal": 0o600, "s.db-shm": 0o600, "s.db.artifacts": 0o700}
    store.close()


def test_files_of_an_earlier_version_become_private(tmp_path: Path) -> None:
    Store(str(tmp_path / "s.db")).close()
    (tmp_path / "s.db").chmod(0o644)
    (tmp_path / "s.db.artifacts").chmod(0o755)
    Store(str(tmp_path / "s.db")).close()
    assert [path.stat().st_mode & 0o077 for path in tmp_path.iterdir()] == [0, 0]


@pytest.mark.parametrize("name", ["s.db", "s.db-wal", "s.db-shm", "s.db-journal", "s.db.artifacts"])
def test_a_link_instead_of_a_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "new"
    (tmp_path / name).symlink_to(target)
    with pytest.raises(
        MrCeleryError, match=rf"cannot keep its state in \S+/s.db: {tmp_path}/{name} (must be a regular file, but )?is"
    ):
        Store(str(tmp_path / "s.db"))
    assert not target.exists()


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_folder_in_which_others_create_files_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(MrCeleryError, match=f"other users can replace files in {tmp_path}"):
        Store(str(tmp_path / "s.db"))
    assert list(tmp_path.iterdir()) == []
