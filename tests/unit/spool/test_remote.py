"""A spool in fsspec storage, on in-memory filesystems."""

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
    """An in-memory filesystem that refuses the steps a test names."""

    protocol = "strict"
    refuses: tuple[str, ...] = ()
    store: dict[str, Any] = {}  # noqa: RUF012 - shared by all instances, as in the base class
    pseudo_dirs: list[str] = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("strict://", "memory://"))  # type: ignore[no-any-return]

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self._check("makedirs")
        super().makedirs(path, exist_ok=exist_ok)

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        self._check("ls")
        return super().ls(path, detail=detail, **kwargs)

    def _check(self, step: str) -> None:
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


def test_put_open_and_remove(spool: RemoteSpool) -> None:
    put(spool, b"abcdef")
    assert read(spool) == b"abcdef"
    assert [(entry.name, entry.file, entry.size) for entry in spool.entries()] == [(NAME, str(NAME), 6)]
    spool.remove(str(NAME))
    spool.remove(str(NAME))
    assert spool.entries() == []


def test_put_beyond_the_limit_is_refused(spool: RemoteSpool) -> None:
    put(spool, bytes(60))
    with pytest.raises(
        SpoolFull, match="the spool strict://bucket/spool holds 60 bytes of 100 bytes; another 41 bytes do not fit"
    ):
        put(spool, bytes(41), OTHER)


def test_open_missing_file(spool: RemoteSpool) -> None:
    with pytest.raises(FileNotFoundError):
        read(spool)


def test_entries_have_no_name_for_other_files_and_skip_folders(spool: RemoteSpool) -> None:
    put(spool)
    Strict().pipe("/bucket/spool/0123/folder/file", b"x")
    Strict().pipe("/bucket/spool/0123/other", b"xy")
    assert {(entry.file, entry.name) for entry in spool.entries()} == {(str(NAME), NAME), ("other", None)}


def test_put_without_permission_to_create_folders(spool: RemoteSpool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Strict, "refuses", ("makedirs",))
    put(spool)
    assert read(spool) == b"abc"


def test_permission_error_is_reported(spool: RemoteSpool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Strict, "refuses", ("ls",))
    with pytest.raises(SpoolUnavailable, match="the spool strict://bucket/spool cannot be used: not allowed: ls"):
        put(spool)


def test_password_is_removed_from_the_url() -> None:
    spool = RemoteSpool("sftp://user:hush@host:22/spool/0123", limit=100)
    assert str(spool) == "sftp://host:22/spool"
    assert "hush" not in repr(spool)


@pytest.mark.parametrize("url", ["s3://bucket/spool", "abfs://box@account.test/spool", "gs://bucket"])
def test_url_without_password_is_unchanged(url: str) -> None:
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
def test_written_at_of_each_filesystem(item: dict[str, Any]) -> None:
    assert _written_at(item) == 1e9


@pytest.mark.parametrize("item", [{}, {"mtime": None}, {"updated": "yesterday"}], ids=str)
def test_unknown_written_at_is_never_too_old(item: dict[str, Any]) -> None:
    assert _written_at(item) == float("inf")
