"""Random values in the sandbox's own forms and files: each is valid, or refused with a message."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import FormData

from mr_celery.sandbox.chaos import Chaos, rules_from
from mr_celery.sandbox.page import faults, text
from mr_celery.sandbox.page.draft import MAX_JOBS, Draft
from mr_celery.sandbox.values import MalformedError, clean, digits, parse_object, timestamp
from support.fuzzing import examples

NAMES = st.sampled_from(
    (
        *("fault", "routes", "rate", "times", "seconds", "status", "retry_after", "delay", "after", "rules", "seed"),
        *("prompt", "worker", "capability", "tags", "priority", "fields", "copies", "each_line", "preset", "share"),
    )
)
WORDS = st.sampled_from(
    (
        "drop",
        "status",
        "hang",
        "latency",
        "inbox",
        "claim",
        "1",
        "0",
        "-1",
        "nan",
        "inf",
        "1e999",
        "9" * 20,
        "٣",
        "{}",
        "[",
        "on",
    )
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)
RULES = st.fixed_dictionaries({"rules": st.lists(st.dictionaries(NAMES, VALUES | WORDS, max_size=4), max_size=3)})


@examples(400)
@given(data=VALUES | RULES)
def test_random_rules_of_faults(data: Any) -> None:
    try:
        rules, seed = rules_from(data)
    except MalformedError:
        return
    chaos = Chaos(seed)
    chaos.set(rules)
    for route in ("inbox", "claim", "close"):
        chaos.choose(route)
    assert all(faults.description(rule) for rule in chaos.rules)


@examples(400)
@given(items=st.lists(st.tuples(NAMES, WORDS | st.text(max_size=6)), max_size=8))
def test_random_forms_of_faults_and_jobs(items: list[tuple[str, str]]) -> None:
    form = FormData(items)
    for read in (faults.from_form, lambda form: faults.from_preset(form.get("preset", ""), form.get("seconds", ""))):
        with suppress(MalformedError):
            assert faults.description(read(form))
    draft = Draft.of_form(form)
    try:
        prompts, fields = draft.prompts(), draft.further()
    except MalformedError:
        return
    assert 0 < len(prompts) <= MAX_JOBS
    assert Draft.of_job({"assigned_to": None, "priority": "normal", **fields, "prompt": prompts[0]}).prompts()


@examples(400)
@given(data=st.binary(max_size=80) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_random_bodies(data: bytes) -> None:
    try:
        body = parse_object(data)
    except MalformedError:
        return
    assert clean(body) == body
    assert json.loads(json.dumps(body, ensure_ascii=False).encode()) == body


@examples(400)
@given(given_text=st.text() | WORDS | VALUES.map(json.dumps))
def test_random_texts(given_text: str) -> None:
    shown = text.output(given_text)
    assert shown.kind in ("text", "json", "markdown", "traceback")
    number = digits(given_text)
    assert number is None or 0 <= number < 10**18
    with suppress(MalformedError):
        timestamp(given_text, "x")
