"""Preparing signatures for workflows."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery, chain, chord, group

from mr_celery.celery_worker.canvas import (
    described,
    ends_in_group,
    final_signature,
    leaves,
    needs_backend,
    stamp_headers,
    stamped_copy,
)
from mr_celery.errors import JobError
from mr_celery.message import STAMP, member_of, stamp_of

VALUE = stamp_of("studio", "mr-7-2-abcd")


@pytest.fixture
def app() -> Celery:
    app = Celery("canvas", broker="memory://", backend="cache+memory://", set_as_current=False)

    @app.task(name="canvas.add", shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    return app


@pytest.fixture
def add(app: Celery) -> Any:
    return app.tasks["canvas.add"]


def stamps(signature: Any) -> list[Any]:
    return [each.options.get(STAMP) for each in leaves(signature)]


def test_every_task_of_a_copy_is_stamped_and_the_original_is_not(app: Celery, add: Any) -> None:
    made = chain(add.s(1, 1), group(add.s(1), chain(add.s(2), add.s(3))), chord([add.s(4)], add.s(5)))
    copy = stamped_copy(made, app, VALUE)
    assert set(stamps(copy)) == {VALUE}
    assert set(stamps(made)) == {None}
    assert len(list(leaves(copy))) == len(list(leaves(made))) >= 6


def test_callbacks_and_stamps_of_the_application_stay_as_they_are(app: Celery, add: Any) -> None:
    errback, callback = add.si(0, 0), add.s(9)
    made = add.s(1, 1).set(stamped_headers=["theirs"], theirs="x").on_error(errback)
    made.link(callback)
    copy = stamped_copy(made, app, VALUE)
    assert copy.options["stamped_headers"] == ["theirs", STAMP]
    assert (copy.options["theirs"], copy.options[STAMP]) == ("x", VALUE)
    for kind in ("link", "link_error"):
        assert all(STAMP not in each["options"] for each in copy.options[kind])


def test_chunks_become_a_group(app: Celery, add: Any) -> None:
    copy = stamped_copy(add.chunks([(1, 1), (2, 2), (3, 3)], 2), app, VALUE)
    assert isinstance(copy, group)
    assert stamps(copy) == [VALUE, VALUE]


@pytest.mark.parametrize(
    ("make", "ends", "needs"),
    [
        (lambda add: add.s(1, 1), False, False),
        (lambda add: chain(add.s(1, 1), add.s(1)), False, False),
        (lambda add: group(add.s(1, 1), add.s(2, 2)), True, True),
        (lambda add: chain(add.s(1, 1), group(add.s(1), add.s(2))), True, True),
        (lambda add: chord([add.s(1, 1)], add.s(1)), False, True),
        (lambda add: chord([add.s(1, 1)], group(add.s(1), add.s(2))), True, True),
    ],
)
def test_what_ends_in_a_group_gets_a_final_task(app: Celery, add: Any, make: Any, ends: bool, needs: bool) -> None:
    signature = make(add)
    assert (ends_in_group(signature), needs_backend(signature)) == (ends, needs)
    made = final_signature(signature, app, stamp=VALUE)
    assert not ends_in_group(made)
    assert set(stamps(made)) == {VALUE}
    assert ("celery.accumulate" in described(made)) == ends


def test_what_can_be_no_workflow(app: Celery, add: Any) -> None:
    without = Celery("bare", broker="memory://", set_as_current=False)
    with pytest.raises(JobError, match="no result backend"):
        final_signature(group(add.s(1, 1), add.s(2, 2)), without, stamp=VALUE)
    with pytest.raises(JobError, match="empty chain"):
        final_signature(chain(), app, stamp=VALUE)
    with pytest.raises(JobError, match="part of a chord"):
        final_signature(add.s(1, 1).set(chord=add.s(1)), app, stamp=VALUE)


def test_a_message_is_stamped_and_read_back() -> None:
    headers: dict[str, Any] = {"id": "x", "task": "celery.chord_unlock", "stamped_headers": None, "stamps": {}}
    stamp_headers(headers, VALUE)
    member = member_of(headers, "x", 3)
    assert member is not None
    assert (member.worker_name, member.key.job_id, member.key.task_id) == ("studio", 7, "mr-7-2-abcd")
    assert (member.key.member_id, member.key.retries, member.task_name) == ("x", 3, "celery.chord_unlock")


@pytest.mark.parametrize(
    "value", [None, "", "mr-7-1-x", "mr-x-1-y@studio", "7@studio", "mr-@studio", 7, [], {}, [["mr-7-1-x@w"]]]
)
def test_other_stamps_make_no_member(value: object) -> None:
    assert member_of({"stamps": {STAMP: value}}, "x") is None


def test_a_stamp_that_celery_made_a_list_of_is_read() -> None:
    member = member_of({"stamps": {STAMP: [VALUE]}}, "x")
    assert member is not None
    assert member.worker_name == "studio"
