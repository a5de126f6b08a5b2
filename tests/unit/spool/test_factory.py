"""The kind of spool for each URL, and the errors for unusable ones."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import s3fs

from mr_celery.errors import SettingsError
from mr_celery.settings import Settings
from mr_celery.spool import SpoolFull, SpoolName, spool_of
from mr_celery.spool.folder import FolderSpool
from mr_celery.spool.names import folder_of
from mr_celery.spool.remote import RemoteSpool

NAME = SpoolName("mr-7-1-ab", "cd", 0)


def test_no_url_no_spool() -> None:
    assert spool_of(Settings(), "w") is None


@pytest.mark.parametrize("form", ["{}/spool", "file://{}/spool", "{}/with space/spool"])
def test_folder(tmp_path: Path, form: str) -> None:
    spool = spool_of(Settings(spool_url=form.format(tmp_path)), "w")
    assert isinstance(spool, FolderSpool)
    spool.put(NAME, io.BytesIO(b"abc"), 3)
    folder = Path(form.format(tmp_path).removeprefix("file://"))
    assert (folder / folder_of("w") / str(NAME)).read_bytes() == b"abc"


@pytest.mark.parametrize("url", ["s3://bucket/spool", "s3://bucket", "memory://spool"])
def test_fsspec_url(url: str) -> None:
    spool = spool_of(Settings(spool_url=url), "w")
    assert isinstance(spool, RemoteSpool)
    assert str(spool) == url


@pytest.mark.parametrize("url", ["{}/spool", "memory://limited"])
def test_limit_is_taken_from_the_settings(tmp_path: Path, url: str) -> None:
    spool = spool_of(Settings(spool_url=url.format(tmp_path), spool_limit=2), "w")
    assert spool is not None
    with pytest.raises(SpoolFull, match="of 2 bytes"):
        spool.put(NAME, io.BytesIO(b"abc"), 3)


@pytest.mark.parametrize("url", ["{}/spool", "memory://several"])
def test_worker_names_have_separate_spools(tmp_path: Path, url: str) -> None:
    settings = Settings(spool_url=url.format(tmp_path))
    mine, others = spool_of(settings, "w"), spool_of(settings, "other")
    assert mine is not None
    assert others is not None
    mine.put(NAME, io.BytesIO(b"abc"), 3)
    assert (len(mine.entries()), others.entries()) == (1, [])


def test_connection_is_opened_on_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*arguments: object, **options: object) -> None:
        raise AssertionError("a worker creates its spool before it forks, so this must not connect")

    monkeypatch.setattr(s3fs.S3FileSystem, "__init__", opened)
    assert spool_of(Settings(spool_url="s3://bucket/spool"), "w") is not None


def test_relative_file_url_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"modelreins_spool_url: file://srv/spool is not an absolute path"):
        spool_of(Settings(spool_url="file://srv/spool"), "w")


def test_unknown_protocol_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"modelreins_spool_url: nosuch:// needs .*: Protocol not known: nosuch"):
        spool_of(Settings(spool_url="nosuch://bucket/spool"), "w")


def test_missing_fsspec_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(SettingsError, match=r"s3:// needs fsspec .*pip install 'mr-celery\[spool\]', and s3fs"):
        spool_of(Settings(spool_url="s3://bucket/spool"), "w")


def test_missing_storage_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(SettingsError, match=r"gs:// needs fsspec .*install gcsfs"):
        spool_of(Settings(spool_url="gs://bucket/spool"), "w")


def test_folder_works_without_fsspec(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert isinstance(spool_of(Settings(spool_url=f"{tmp_path}"), "w"), FolderSpool)
