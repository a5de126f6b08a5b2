"""Random message headers: reading them never fails, whatever the broker delivers."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from celery import signals
from celery.app.task import Context
from hypothesis import given
from hypothesis import strategies as st

from mr_celery.celery_worker import signals as worker_signals
from mr_celery.celery_worker.received import ReceivedMessages
from mr_celery.job import MAX_JOB_ID
from mr_celery.message import (
    HEADER,
    MOST_NAME_BYTES,
    STAMP,
    header,
    member_of,
    member_of_request,
    message_of,
    message_of_request,
    stamp_of,
    stay_encoded,
)
from support.fuzzing import examples

NUMBERS = (
    st.integers() | st.floats() | st.sampled_from([2**63, -1, 10**400, "7", "٧", " 7 ", "1_0", "7\n", "1e3", True])
)
TEXTS = st.text(max_size=8) | st.sampled_from(
    [
        HEADER,
        "worker",
        "job",
        "stamps",
        "task",
        "mr-7-1-aa",
        "mr-7-1-aa@w",
        "mr-٧-1-a",
        "mr--7-1-a",
        "mr-7",
        "@",
        "\ud800",
    ]
)
VALUES = st.recursive(
    st.none() | NUMBERS | TEXTS | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
MARKS = VALUES | st.fixed_dictionaries({"worker": TEXTS | VALUES, "job": NUMBERS | VALUES})
HEADERS = VALUES | st.fixed_dictionaries(
    {HEADER: MARKS, "stamps": VALUES | st.fixed_dictionaries({STAMP: VALUES}), "task": VALUES}
)
TASK_IDS = TEXTS | VALUES | st.builds("mr-{}-1-aa".format, NUMBERS)


@examples(2000)
@given(headers=HEADERS, task_id=TASK_IDS, retries=NUMBERS | VALUES)
def test_reading_headers_is_no_error(headers: Any, task_id: Any, retries: Any) -> None:
    message, member = message_of(headers, task_id, retries), member_of(headers, task_id, retries)
    if message is not None:
        assert str(task_id).startswith(f"mr-{message.job_id}-")
        assert 0 <= message.job_id <= MAX_JOB_ID
        assert message.retries >= 0
        assert message.key.task_id == str(task_id)
    if member is not None:
        assert member.key.task_id.startswith(f"mr-{member.key.job_id}-")
        assert 0 <= member.key.job_id <= MAX_JOB_ID
        assert member.key.retries >= 0
        assert repr(member)
        assert str(member)


@examples(1000)
@given(headers=HEADERS, stamps=VALUES, mark=MARKS, task_id=TASK_IDS, retries=NUMBERS | VALUES)
def test_reading_a_request_is_no_error(headers: Any, stamps: Any, mark: Any, task_id: Any, retries: Any) -> None:
    request = SimpleNamespace(**{HEADER: mark}, headers=headers, stamps=stamps, id=task_id, retries=retries)
    message_of_request(request)
    member_of_request(request)
    del request.modelreins
    message_of_request(request)


@examples(500)
@given(headers=st.dictionaries(TEXTS, VALUES, max_size=4), marks=MARKS, task_id=TASK_IDS)
def test_receiving_a_message_is_no_error(headers: dict[str, Any], marks: Any, task_id: Any) -> None:
    class Request:  # a SimpleNamespace has no weak references
        def __init__(self) -> None:
            self.request_dict = {**headers, HEADER: marks}
            self.id, self.time_start, self.name = task_id, 1.0, "proj.task"

    received, request = ReceivedMessages(), Request()
    received.add(request)
    received.by_worker_name(lambda each: True)
    received.members(lambda each: True)
    received.failed(task_id)
    received.failed_member(task_id)


class Sender:
    """A consumer or a task, as the sender of signals, with a ledger that does nothing."""

    hostname = "celery@a"
    name = "proj.upper"

    def __init__(self) -> None:
        steps: dict[str, Callable[..., Any]] = {
            "fail": lambda *args, **options: False,
            "resend": lambda *args, **options: "kept",
            "lose_member": lambda *args, **options: "kept",
            "finish_member": lambda *args, **options: "unknown",
        }

        def ledger(worker_name: str) -> Any:
            assert 0 < len(worker_name.encode()) <= MOST_NAME_BYTES
            return SimpleNamespace(**steps)

        clients = SimpleNamespace(ledger=ledger, output_of=lambda *args: "", settings=SimpleNamespace(lease=30.0))
        jobs = SimpleNamespace(clients=clients, holder="h", members=None, received=ReceivedMessages())
        self.app = SimpleNamespace(modelreins_jobs=jobs)


@examples(500)
@given(headers=HEADERS, marks=MARKS, task_id=TASK_IDS, expired=st.booleans())
def test_no_signal_of_a_message_raises(headers: Any, marks: Any, task_id: Any, expired: bool) -> None:
    if isinstance(headers, dict):
        headers = {**headers, HEADER: marks, "id": task_id}
    worker_signals.connect()
    sender, message = Sender(), SimpleNamespace(headers=headers)
    answers = [
        *signals.task_unknown.send(sender=sender, message=message, name=marks, id=task_id, exc=None),
        *signals.task_rejected.send(sender=sender, message=message, exc=None),
    ]
    if isinstance(headers, dict):
        request = Context({"headers": None, **headers})
        answers += signals.task_revoked.send(sender=sender, request=request, terminated=False, expired=expired)
    assert [answer for _, answer in answers if isinstance(answer, BaseException)] == []
    stay_encoded(SimpleNamespace(headers=headers, serializable=dict))


def test_deep_nesting_is_no_error() -> None:
    deep: Any = 7
    for _ in range(50_000):
        deep = [deep]
    for headers in ({HEADER: deep}, {HEADER: {"worker": deep, "job": 7}}, {HEADER: {"worker": "w", "job": deep}}):
        assert message_of(headers, "mr-7-1-aa") is None
    for stamps in (deep, {STAMP: deep}):
        assert member_of({"stamps": stamps}, "member") is None
    assert message_of(header("w", 7), deep) is None
    assert message_of(header("w", 7), "mr-7-1-aa", deep) is None
    assert message_of({**header("w", 7), "task": deep}, "mr-7-1-aa") is not None


NAMES = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), min_size=1, max_size=50)


@examples(500)
@given(name=NAMES, job_id=st.integers(0, MAX_JOB_ID), retries=st.integers(0, 1000), member_id=NAMES)
def test_headers_read_back(name: str, job_id: int, retries: int, member_id: str) -> None:
    task_id = f"mr-{job_id}-1-0123abcd"
    message = message_of(header(name, job_id), task_id, retries)
    assert message is not None
    assert (message.worker_name, message.job_id, message.task_id, message.retries) == (name, job_id, task_id, retries)
    member = member_of({"stamps": {STAMP: stamp_of(name, task_id)}}, member_id, retries)
    assert member is not None
    assert (member.worker_name, member.key.task_id, member.key.member_id) == (name, task_id, member_id)
