"""No text that is not one of ours is the name of a file in a spool, so none leads to a place outside of it."""

from __future__ import annotations

import string
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mr_celery.job import MAX_JOB_ID
from mr_celery.spool import SpoolName
from mr_celery.spool.names import folder_of

HEX = st.text("0123456789abcdef", min_size=1, max_size=40)
NAMES = st.builds(
    lambda job, attempt, token, nonce, index: SpoolName(f"mr-{job}-{attempt}-{token}", nonce, index),
    st.integers(0, MAX_JOB_ID),
    st.integers(1, 10**6),
    HEX,
    HEX,
    st.integers(0, 10**6),
)
LIKE_NAMES = st.text("mr-.0123456789abcdef/\\\n\0 A²", max_size=40)


@given(name=NAMES)
def test_a_name_is_read_as_it_was_written(name: SpoolName) -> None:
    assert SpoolName.parse(str(name)) == name


@given(job_id=st.integers(0, MAX_JOB_ID))
def test_a_name_tells_the_job(job_id: int) -> None:
    name = SpoolName.parse(f"mr-{job_id}-1-ab.cd.0")
    assert name is not None
    assert name.job_id == job_id


@given(text=st.one_of(st.text(), LIKE_NAMES, NAMES.map(str)))
def test_a_text_is_a_name_as_it_stands_or_none(text: str) -> None:
    name = SpoolName.parse(text)
    assert name is None or str(name) == text


@given(text=st.one_of(st.text(), LIKE_NAMES, NAMES.map(str)))
def test_no_name_leads_out_of_its_folder(text: str) -> None:
    name = SpoolName.parse(text)
    if name is not None:
        assert PurePosixPath("/spool", str(name)).parent == PurePosixPath("/spool")
        assert set(str(name)) <= set(string.ascii_letters + string.digits + "-.")


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
def test_what_looks_like_a_name_and_is_none(text: str) -> None:
    assert SpoolName.parse(text) is None


@given(worker=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_the_folder_of_any_worker_name_is_one_plain_folder(worker: str) -> None:
    assert set(folder_of(worker)) <= set("0123456789abcdef")
    assert len(folder_of(worker)) == 16


def test_worker_names_that_differ_have_folders_that_differ() -> None:
    assert len({folder_of(worker) for worker in ("a", "A", "a ", "ä", "a/b")}) == 5
