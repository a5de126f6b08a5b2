"""Secrets that the server resolved for a job: in its fields, and in texts."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest

from mr_celery.job import Job
from mr_celery.job_secrets import Secret, hide_secrets, masked
from mr_celery.outcome import Outcome, ReviewItem

VALUE = 'sk_live_Z"9\n8'


@pytest.mark.parametrize(
    ("fields", "required"),
    [
        ({"secrets": {"stripe": VALUE}}, ()),
        ({"resolved_secrets": [{"name": "vault://stripe", "value": VALUE}]}, ()),
        ({"Credentials": VALUE}, ()),
        ({"input": {"env": [{"clientSecret": VALUE}]}}, ()),
        ({"input": {"vault://prod/stripe-key": VALUE}}, ()),
        ({"env": {"STRIPE_KEY": VALUE}}, ["vault://prod/stripe-key"]),
        ({"prod/stripe-key": VALUE}, ["vault://prod/stripe-key"]),
        ({"stripe-key": {"value": VALUE}}, ["vault://prod/stripe-key/"]),
    ],
)
def test_a_secret_stays_equal_and_its_repr_hides_it(fields: dict[str, Any], required: list[str]) -> None:
    job = Job({"id": 1, "prompt": "hello", **copy.deepcopy(fields)})
    assert VALUE in job.hide_secrets(required)
    assert dict(job) == {"id": 1, "prompt": "hello", **fields}
    assert "sk_live" not in repr(dict(job))
    assert "***" in repr(dict(job))
    assert repr(job.prompt) == "'hello'"
    assert json.loads(job.to_json()) == dict(job)
    again = pickle.loads(pickle.dumps(job))
    assert dict(again) == dict(job)
    assert "sk_live" not in repr(dict(again))


@pytest.mark.parametrize("encoded", [False, True])
def test_a_stored_job_has_its_secrets(encoded: bool) -> None:
    text = Job({"id": 1, "input": {"Client-SECRET": VALUE}, "env": {"STRIPE_KEY": VALUE}}).to_json()
    job = Job.from_json(text.encode() if encoded else text).watched(lambda: False)
    assert job.hide_secrets() == {VALUE}
    text = Job({"id": 1, "env": {"STRIPE_KEY": VALUE}}).to_json()
    job = Job.from_json(text.encode() if encoded else text).watched(lambda: False)
    assert job.hide_secrets() == frozenset()
    assert job.hide_secrets(["vault://prod/stripe-key"]) == {VALUE}


def test_other_fields_and_references_are_no_secrets() -> None:
    fields = {"id": 1, "prompt": "hello", "requires_secrets": ["vault://prod/stripe"], "env": {"STRIPE_KEY": VALUE}}
    assert hide_secrets(fields) == frozenset()
    assert VALUE in repr(fields).encode().decode("unicode_escape")


def test_short_values_are_not_masked_in_texts() -> None:
    fields: dict[str, Any] = {"secrets": {"pin": "1234", "flag": True, "number": 12345678, "none": None}}
    assert hide_secrets(fields) == {"12345678"}
    assert repr(fields["secrets"]["pin"]) == "'***'"


def test_a_deeply_nested_job_is_no_problem() -> None:
    fields: dict[str, Any] = {}
    inner = fields
    for _ in range(5000):
        inner["x"] = {}
        inner = inner["x"]
    inner["secret"] = VALUE
    assert hide_secrets(fields) == {VALUE}


@pytest.mark.parametrize("form", [VALUE, repr(VALUE), json.dumps({"a": VALUE}), f"Error: {VALUE}!"])
def test_texts_are_cleared_of_a_secret_in_each_form(form: str) -> None:
    assert "sk_live" not in masked(form, {VALUE})
    assert "***" in masked(form, {VALUE})


def test_a_longer_secret_is_masked_as_a_whole() -> None:
    assert masked("abcdef-123456", {"abcdef", "abcdef-123456"}) == "***"


def test_an_outcome_is_cleared_in_all_its_texts() -> None:
    review = ReviewItem("t", f"title {VALUE}", f"content {VALUE}")
    outcome = Outcome("failed", f"text {VALUE}", reviews=(review,), reason=f"why {VALUE}").masked({VALUE})
    assert "sk_live" not in outcome.to_json()
    assert (outcome.text, outcome.reason) == ("text ***", "why ***")


def test_a_secret_is_a_string() -> None:
    secret = Secret("abcdef")
    assert (secret, f"{secret}", len(secret)) == ("abcdef", "abcdef", 6)
    assert type(str(secret)) is str
