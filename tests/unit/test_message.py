"""The Celery message of a job."""

from __future__ import annotations

from typing import Any

import pytest

from mr_celery.ledger import RunKey
from mr_celery.message import HEADER, STAMP, Message, header, member_of, message_of, stamp_of
from support.celery_worker import MESSAGE, TASK_ID


@pytest.mark.parametrize(
    "headers",
    [
        None,
        {},
        {HEADER: None},
        {HEADER: "7"},
        {HEADER: []},
        {HEADER: {}},
        {HEADER: {"worker": "w"}},
        {HEADER: {"job": 7}},
        {HEADER: {"worker": "w", "job": None}},
        {HEADER: {"worker": "w", "job": "seven"}},
        {HEADER: {"worker": "w", "job": float("inf")}},
        {HEADER: {"worker": "w", "job": -1}},
        {HEADER: {"worker": "w", "job": 2**63}},
        [{HEADER: {"worker": "w", "job": 7}}],
        7,
        {HEADER: {"worker": "w", "job": float("nan")}},
        {HEADER: {"worker": "w", "job": 7.0}},
        {HEADER: {"worker": "w", "job": "7"}},
        {HEADER: {"worker": "w", "job": True}},
        {HEADER: {"worker": "w", "job": 10**5000}},
        {HEADER: {"worker": "", "job": 7}},
        {HEADER: {"worker": ["w"], "job": 7}},
        {HEADER: {"worker": "w" * 201, "job": 7}},
        {HEADER: {"worker": "w\n", "job": 7}},
        {HEADER: {"worker": "w\ud800", "job": 7}},
        "modelreins",
        {"other": {"worker": "w", "job": 7}},
    ],
)
def test_headers_that_name_no_job_bring_none(headers: Any) -> None:
    assert message_of(headers, TASK_ID) is None


@pytest.mark.parametrize(
    "task_id",
    [
        "",
        None,
        "9e7a2c1e",
        "mr-70-1-aa",
        "mr-8-1-aa",
        "7",
        "mr-7",
        "mr-٧-1-aa",
        "mr-7-1-aa\n",
        "mr-7-1-a/b",
        7,
        ["mr-7-1-aa"],
    ],
)
def test_a_job_s_header_on_the_message_of_another_task_brings_none(task_id: Any) -> None:
    assert message_of(header("w", 7), task_id) is None


@pytest.mark.parametrize("retries", [-1, 1.0, float("inf"), "1", [1], {"n": 1}, 2**63, 10**400])
def test_a_number_of_retries_that_celery_would_not_write_brings_no_job(retries: Any) -> None:
    assert message_of(header("w", 7), TASK_ID, retries) is None
    stamps = {"stamps": {STAMP: stamp_of("w", TASK_ID)}}
    assert member_of(stamps, "member", retries) is None
    assert member_of(stamps, "member", 1) is not None


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "mr-7-1-x",
        "w",
        "mr-7-1-x@",
        "mr-7-1-x@w\n",
        "mr-x@w",
        "mr-7@w",
        7,
        [],
        [[]],
        ["mr-7-1-x@w", 7],
        {"a": 1},
    ],
)
def test_a_stamp_that_the_bridge_would_not_write_makes_no_member(value: Any) -> None:
    assert member_of({"stamps": {STAMP: value}}, "member") is None
    assert member_of({"stamps": value}, "member") is None


def test_the_number_of_retries_is_part_of_the_message() -> None:
    assert message_of(header("w", 7), TASK_ID, 2) == Message("w", 7, TASK_ID, 2)
    assert message_of(header("w", 7), TASK_ID, None) == MESSAGE
    assert Message("w", 7, TASK_ID, 2).key == RunKey(7, TASK_ID, 2)
