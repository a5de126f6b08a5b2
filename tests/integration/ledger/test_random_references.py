"""The text form of random keys of attempts."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from mr_celery.job import MAX_JOB_ID
from mr_celery.ledger import AttemptKey
from mr_celery.ledger.reference import digest_of, read_reference, reference

SECRET = "abcdefghijklmnopqrst-_"

names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=200).filter(
    lambda name: len(name.encode()) <= 200
)


@given(name=names, job_id=st.integers(0, MAX_JOB_ID), attempt=st.integers(1, 999_999_999))
def test_a_reference_fits_into_an_address_and_reads_back(name: str, job_id: int, attempt: int) -> None:
    key = AttemptKey(job_id, attempt, SECRET)
    text = reference(name, key)
    assert len(text) <= 200
    assert re.fullmatch(r"[A-Za-z0-9._~-]+", text, re.ASCII)
    assert read_reference(text, {digest_of(name): name}.get) == (name, key)


@given(text=st.text())
def test_no_text_is_an_error(text: str) -> None:
    assert read_reference(text, lambda digest: None) is None
