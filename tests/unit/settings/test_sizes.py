"""Allowed and refused values of sizes and of the spool's URL."""

from __future__ import annotations

from typing import Any

import pytest

from mr_celery.errors import SettingsError
from mr_celery.settings import Settings, load

KIB, MIB, GIB, TIB = 2**10, 2**20, 2**30, 2**40


def read(name: str, value: Any) -> Any:
    """The value of a setting: a string is read from the environment, anything else from the configuration."""
    if isinstance(value, str):
        return getattr(load(environment={f"MODELREINS_{name.upper()}": value}), name)
    return getattr(load({f"modelreins_{name}": value}, environment={}), name)


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ("1048576", MIB),
        (1048576, MIB),
        (" 1048576 ", MIB),
        ("500 MiB", 500 * MIB),
        ("500MiB", 500 * MIB),
        ("500 MB", 500 * MIB),
        ("500M", 500 * MIB),
        ("500 m", 500 * MIB),
        ("2048 kib", 2 * MIB),
        ("20 GiB", 20 * GIB),
        ("1 TiB", TIB),
        ("1024 TiB", 2**50),
        ("5242880 B", 5 * MIB),
    ],
)
def test_a_size_is_written_in_bytes_or_with_a_unit(given: Any, size: int) -> None:
    assert read("spool_limit", given) == size


@pytest.mark.parametrize(
    "given",
    [
        "much",
        "-1",
        "0",
        "1 MiB more",
        "1.5 GiB",
        "1e9",
        "1,000,000",
        "MiB",
        "1 PiB",
        "1025 TiB",
        "1048575",
        "1  GiB",
        "١٠٠٠٠٠٠٠",
        True,
        1048576.5,
        [1048576],
    ],
    ids=repr,
)
def test_invalid_size_is_refused_with_the_allowed_values(given: Any) -> None:
    with pytest.raises(SettingsError, match=r"(?i)_spool_limit: .* is invalid: it must be bytes from 1 MiB, such"):
        read("spool_limit", given)


@pytest.mark.parametrize(("given", "size"), [("1024", KIB), ("64 KiB", 64 * KIB), (1024, KIB)])
def test_the_limit_of_an_output_is_a_size(given: Any, size: int) -> None:
    assert read("result_limit", given) == size


def test_the_smallest_output_has_room_for_the_mark_of_a_cut() -> None:
    with pytest.raises(SettingsError, match="MODELREINS_RESULT_LIMIT: '1023' is invalid"):
        read("result_limit", "1023")


def test_defaults() -> None:
    settings = Settings()
    assert (settings.spool_url, settings.spool_limit, settings.result_limit) == ("", 10 * GIB, MIB)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("/srv/spool", "/srv/spool"),
        ("/srv/spool/", "/srv/spool"),
        ("/srv/with space", "/srv/with space"),
        ("file:///srv/spool", "file:///srv/spool"),
        ("s3://bucket/spool", "s3://bucket/spool"),
        ("s3://bucket/", "s3://bucket"),
        ("gs://bucket/a/b", "gs://bucket/a/b"),
        ("sftp://user:hush@host/spool", "sftp://user:hush@host/spool"),
        ("", ""),
    ],
)
def test_a_spool_is_an_absolute_path_or_a_url(given: str, used: str) -> None:
    assert read("spool_url", given) == used


@pytest.mark.parametrize("given", ["spool", "./spool", "~/spool", "/", "s3://", "s3:bucket", "://bucket", "C:\\spool"])
def test_another_spool_is_refused_with_the_allowed_values(given: str) -> None:
    with pytest.raises(SettingsError, match=r"_SPOOL_URL: .* is invalid: it must be an absolute path"):
        read("spool_url", given)


def test_a_refused_url_is_not_shown() -> None:
    with pytest.raises(SettingsError) as refused:
        read("spool_url", "user:hush@host")
    assert "hush" not in str(refused.value)


def test_the_url_is_not_in_the_repr() -> None:
    assert "hush" not in repr(Settings(spool_url="sftp://user:hush@host/spool"))
