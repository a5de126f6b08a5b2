"""Random names of files in a spool: none leads out of the spool."""

from __future__ import annotations

import string
from pathlib import PurePosixPath

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
def test_parse_returns_the_written_name(name: SpoolName) -> None:
    assert SpoolName.parse(str(name)) == name


@given(job_id=st.integers(0, MAX_JOB_ID))
def test_job_id(job_id: int) -> None:
    name = SpoolName.parse(f"mr-{job_id}-1-ab.cd.0")
    assert name is not None
    assert name.job_id == job_id


@given(text=st.one_of(st.text(), LIKE_NAMES, NAMES.map(str)))
def test_parse_accepts_only_the_exact_form(text: str) -> None:
    name = SpoolName.parse(text)
    assert name is None or str(name) == text


@given(text=st.one_of(st.text(), LIKE_NAMES, NAMES.map(str)))
def test_names_cannot_leave_their_folder(text: str) -> None:
    name = SpoolName.parse(text)
    if name is not None:
        assert PurePosixPath("/spool", str(name)).parent == PurePosixPath("/spool")
        assert set(str(name)) <= set(string.ascii_letters + string.digits + "-.")


@given(worker=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_folder_of_any_worker_name_is_a_plain_name(worker: str) -> None:
    assert set(folder_of(worker)) <= set("0123456789abcdef")
    assert len(folder_of(worker)) == 16
