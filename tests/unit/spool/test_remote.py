"""A spool wherever fsspec reaches, on filesystems inside of the test."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Iterator
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from mr_celery.spool import SpoolFull, SpoolName, SpoolUnavailable
from mr_celery.spool.remote import RemoteSpool, _written_at

NAME = SpoolName("mr-7-1-ab", "cd", 0)
OTHER = SpoolName("mr-7-1-ab", "cd", 1)


class Strict(MemoryFileSystem):
    """A filesystem in memory of which a test decides what it refuses."""

    protocol = "strict"
    refuses: tuple[str, ...] = ()
    store: dict[str, Any] = {}  # noqa: RUF012 - as its parent's: shared by all of them
    pseudo_dirs: list[str] = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("strict://", "memory://"))  # type: ignore[no-any-return]

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self._may("makedirs")
        super().makedirs(path, exist_ok=exist_ok)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        self._may("ls")
        return super().ls(path, detail=detail, **kwargs)

    def _may(self, step: str) -> None:
        if step in self.refuses:
            raise PermissionError(f"not allowed: {step}")


@pytest.fixture(autouse=True)
def _filesystem(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fsspec.register_implementation("strict", Strict, clobber=True)
    yield
    Strict.store.clear()
    Strict.pseudo_dirs[:] = [""]


@pytest.fixture
def spool() -> RemoteSpool:
    return RemoteSpool("strict://bucket/spool/0123", limit=100)


def put(spool: RemoteSpool, data: bytes = b"abc", name: SpoolName = NAME) -> None:
    spool.put(name, io.BytesIO(data), len(data))


def read(spool: RemoteSpool, name: SpoolName = NAME) -> bytes:
    with spool.open(name) as file:
        return file.read()


def test_what_is_put_is_read_and_removed(spool: RemoteSpool) -> None:
    put(spool, b"abcdef")
    assert read(spool) == b"abcdef"
    assert [(entry.name, entry.file, entry.size) for entry in spool.entries()] == [(NAME, str(NAME), 6)]
    spool.remove(str(NAME))
    spool.remove(str(NAME))
    assert spool.entries() == []


def test_the_limit_holds(spool: RemoteSpool) -> None:
    put(spool, bytes(60))
    with pytest.raises(SpoolFull, match="the spool strict://bucket/spool holds 60 of 100 bytes, and 41 more"):
        put(spool, bytes(41), OTHER)


def test_what_is_not_there_is_not_found(spool: RemoteSpool) -> None:
    with pytest.raises(FileNotFoundError):
        read(spool)


def test_foreign_files_and_folders_are_no_files_of_ours(spool: RemoteSpool) -> None:
    put(spool)
    Strict().pipe("/bucket/spool/0123/folder/file", b"x")
    Strict().pipe("/bucket/spool/0123/foreign", b"xy")
    assert {(entry.file, entry.name) for entry in spool.entries()} == {(str(NAME), NAME), ("foreign", None)}


def test_a_key_that_may_make_no_folder_may_write(spool: RemoteSpool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Strict, "refuses", ("makedirs",))
    put(spool)
    assert read(spool) == b"abc"


def test_what_is_refused_is_told(spool: RemoteSpool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Strict, "refuses", ("ls",))
    with pytest.raises(SpoolUnavailable, match="the spool strict://bucket/spool cannot be used: not allowed: ls"):
        put(spool)


def test_a_password_in_the_address_is_told_to_nobody() -> None:
    spool = RemoteSpool("sftp://user:hush@host:22/spool/0123", limit=100)
    assert str(spool) == "sftp://host:22/spool"
    assert "hush" not in repr(spool)


@pytest.mark.parametrize("url", ["s3://bucket/spool", "abfs://box@account.test/spool", "gs://bucket"])
def test_an_address_without_one_is_told_as_it_is(url: str) -> None:
    assert str(RemoteSpool(f"{url}/0123", limit=100)) == url


@pytest.mark.parametrize(
    "item",
    [
        {"mtime": 1e9},
        {"LastModified": dt.datetime.fromtimestamp(1e9, dt.timezone.utc)},
        {"updated": "2001-09-09T01:46:40.000Z"},
        {"last_modified": None, "created": 1_000_000_000},
        {"modify": "20010909014640", "created": 1e9},
    ],
    ids=str,
)
def test_each_filesystem_tells_the_time_in_its_own_way(item: dict[str, Any]) -> None:
    assert _written_at(item) == 1e9


@pytest.mark.parametrize("item", [{}, {"mtime": None}, {"updated": "yesterday"}], ids=str)
def test_a_file_of_unknown_age_is_never_too_old(item: dict[str, Any]) -> None:
    assert _written_at(item) == float("inf")
