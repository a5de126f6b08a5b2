"""Random jobs: with any fields, a job has a handler or a reason against one, and its fields do not change."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mr_celery.errors import JobError, RoutingError
from mr_celery.handlers import Declaration, Handler, Registry, bind
from mr_celery.job import MAX_JOB_ID, PRIORITIES, Job
from mr_celery.job_secrets import masked
from mr_celery.server.job_list import MostUrgent, urgency
from support.fuzzing import examples

NAMES = st.sampled_from(
    (
        *(
            "prompt",
            "capability",
            "capabilities",
            "tags",
            "priority",
            "status",
            "assigned_to",
            "model",
            "provider",
            "tier",
        ),
        *(
            "input",
            "secrets",
            "job",
            "self",
            "args",
            "kwargs",
            "__class__",
            "_fields",
            "name",
            "text.sum",
            "a",
            "",
            "\ud800",
        ),
    )
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | NAMES | st.just("vault://a/b"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.dictionaries(NAMES | st.text(max_size=4), VALUES, max_size=6)


def handler(name: str, capability: str = "", tags: tuple[str, ...] = ()) -> Handler:
    def run(job: Job, prompt: str = "", model: str = "m", *, input: Any = None) -> None: ...

    declaration = Declaration(capabilities=(capability,) if capability else (), tags=frozenset(tags))
    return Handler(SimpleNamespace(name=name, run=run), declaration)


HANDLERS = [handler("sum", "text.sum"), handler("tagged", tags=("a",)), handler("any")]


@examples(400)
@given(fields=FIELDS, job_id=st.integers(0, MAX_JOB_ID))
def test_a_job_has_its_fields_and_safe_attributes(fields: dict[str, Any], job_id: int) -> None:
    given_fields = {**fields, "id": job_id}
    job = Job(given_fields)
    assert repr(dict(job)) == repr(given_fields)
    assert job.id == job_id
    assert job.priority in PRIORITIES
    for name in ("prompt", "assigned_to", "status", "provider", "model", "tier"):
        assert isinstance(getattr(job, name), str)
    for names in (job.tags, job.capabilities, job.named_capabilities):
        assert all(isinstance(each, str) and each.strip() == each != "" for each in names)
    assert repr(job) == f"<Job {job_id}>"
    for again in (Job.from_json(job.to_json()), pickle.loads(pickle.dumps(job))):
        assert repr(dict(again)) == repr(given_fields)


@examples(400)
@given(fields=FIELDS, undeclared=st.sampled_from(["refuse", "run"]))
def test_a_job_has_a_handler_or_a_reason(fields: dict[str, Any], undeclared: Any) -> None:
    job = Job({**fields, "id": 7})
    try:
        found = Registry(HANDLERS, undeclared=undeclared).route(job)
    except RoutingError:
        return
    assert found.name != "sum" or "text.sum" in job.capabilities
    assert found.name != "tagged" or "a" in job.tags + job.capabilities


@examples(400)
@given(fields=FIELDS)
def test_arguments_are_the_fields_of_their_names(fields: dict[str, Any]) -> None:
    job = Job({**fields, "id": 7})
    for each in HANDLERS:
        bound = bind(each.task.run, job)
        assert bound.pop("job") is job, "a field named job does not replace the job"
        assert bound.keys() <= {"prompt", "model", "input"}
        assert all(bound[name] is job[name] for name in bound)

    def needs(missing: str) -> None: ...

    if "missing" not in job:
        with pytest.raises(JobError):
            bind(needs, job)


@examples(300)
@given(entries=st.lists(st.tuples(st.integers(0, 5), FIELDS), max_size=12), most=st.integers(1, 4))
def test_the_most_urgent_jobs_of_any_list(entries: list[tuple[int, dict[str, Any]]], most: int) -> None:
    urgent = MostUrgent(lambda job: job, most=most)
    for job_id, fields in entries:
        refusal = urgent.take({"prompt": "p", **fields, "id": job_id}, 1)
        assert refusal is None or refusal.isprintable()
    kept = list(urgent)
    assert len(kept) <= most
    assert len({job.id for job in kept}) == len(kept)
    assert [urgency(job) for job in kept] == sorted(map(urgency, kept))


@examples(300)
@given(fields=FIELDS, secret=st.text(min_size=8, max_size=30), around=st.text(max_size=10))
def test_secrets_are_hidden_in_any_job(fields: dict[str, Any], secret: str, around: str) -> None:
    job = Job({**fields, "id": 7, "secrets": {"vault://a/b": secret, "more": [secret]}})
    for each in job.hide_secrets(["vault://a/b"]):
        assert each not in masked(f"{around}{each}{around}", [each]) or each in around + around
