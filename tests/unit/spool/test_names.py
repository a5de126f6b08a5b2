"""Names of files in a spool are parsed strictly, so none leads out of the spool."""

from __future__ import annotations

import re

import pytest

from mr_celery.spool import SpoolName
from mr_celery.spool.names import folder_of


def test_parse_returns_the_written_name() -> None:
    name = SpoolName("mr-7-2-0a1b", "c3", 12)
    assert str(name) == "mr-7-2-0a1b.c3.12"
    assert SpoolName.parse(str(name)) == name
    assert name.job_id == 7


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "/etc/passwd",
        "../mr-1-1-ab.cd.0",
        "mr-1-1-ab.cd.0/..",
        "mr-1-1-../ab.cd.0",
        "mr-1-1-ab.cd.0\n",
        "mr-1-1-ab.cd.0\0",
        " mr-1-1-ab.cd.0",
        "mr-1-1-ab.cd.0.5f2e91c0.part",
        "mr-1-1-ab.cd",
        "mr-1-1-ab.cd.-1",
        "mr-1-1-ab.cd.00",
        "mr-01-1-ab.cd.0",
        "mr-1-1-AB.cd.0",
        "mr-1-1-ab.cd.٣",
        "mr-1-1-ab.cd." + "9" * 5000,
    ],
)
def test_invalid_names(text: str) -> None:
    assert SpoolName.parse(text) is None


def test_the_folder_of_a_worker_name_is_a_plain_name() -> None:
    assert re.fullmatch("[0-9a-f]{16}", folder_of("../\0ä/b"))


def test_different_worker_names_have_different_folders() -> None:
    assert len({folder_of(worker) for worker in ("a", "A", "a ", "ä", "a/b")}) == 5
