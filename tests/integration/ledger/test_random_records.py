"""Random values through the ledger's scripts on a real Redis: each is read back as it was written."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mr_celery.job import MAX_JOB_ID, Job
from mr_celery.ledger import DeliveryKey, Ledger, Pause, Registration, Route, RunKey
from mr_celery.ledger.records import MOST_CHARACTERS, BridgeProcess, TokenRefusal
from mr_celery.outcome import Outcome, ReviewItem, Upload
from mr_celery.telemetry.printing import printable
from support.fuzzing import examples
from support.ledgers import LATER, LedgerKit
from support.servers import RedisServer

PIECES = st.sampled_from(
    (
        *(
            "\0",
            "\n",
            "\r\n",
            "\x1b[2J",
            "\u202e",
            "\ud800",
            "\udfff",
            "\x85",
            " ",
            "'",
            '"',
            "\\",
            "{",
            "}",
            "[[",
            "]]",
            "--",
        ),
        *("return redis.call('FLUSHALL')", "%s", "%d", "$1", ":", "*", "é", "😀", "0", "nil", "false", "x" * 300),
    )
)


def paired(text: str) -> str:
    """The text with the two halves of a surrogate pair as one character, as JSON reads it back."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


TEXTS = st.lists(PIECES | st.text(max_size=4), max_size=5).map("".join).map(paired)
NAMES = TEXTS.filter(lambda text: text.isprintable() and text != "")
NUMBERS = st.integers() | st.sampled_from([2**53 + 1, 2**63 - 1, 2**64, -(2**70), 10**300])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.dictionaries(
    TEXTS | st.sampled_from(["prompt", "capability", "capabilities", "tags", "priority"]), VALUES, max_size=5
)
JOB_IDS = st.integers(0, MAX_JOB_ID) | st.sampled_from([0, 2**53, 2**53 + 1, MAX_JOB_ID])
UPLOADS = st.builds(
    Upload,
    TEXTS,
    TEXTS,
    st.integers(0, 2**60),
    expires_at=st.none() | TEXTS,
    slug=st.none() | TEXTS,
    key=st.none() | TEXTS,
)
REVIEWS = st.builds(ReviewItem, TEXTS, TEXTS, TEXTS, preview=st.none() | TEXTS, target=st.none() | TEXTS)
OUTCOMES = st.builds(
    Outcome,
    st.sampled_from(["done", "failed", "escalated"]),
    TEXTS,
    st.lists(UPLOADS, max_size=2).map(tuple),
    st.lists(REVIEWS, max_size=2).map(tuple),
    TEXTS,
)
BLOBS = st.lists(st.binary(max_size=40), max_size=2)

numbers = count(1)


@pytest.fixture(scope="module")
def server(shared_redis: RedisServer) -> RedisServer:
    shared_redis.client().flushall()
    return shared_redis


def kit_of(server: RedisServer, worker_name: str) -> LedgerKit:
    """An empty ledger, whose key prefix is unique to the example."""
    return LedgerKit(Ledger(server.ledger_url(), f"{next(numbers)} {worker_name}"), server.client())


def line(text: str) -> str:
    return printable(text, MOST_CHARACTERS)


@examples(20)
@given(
    worker_name=NAMES,
    job_id=JOB_IDS,
    fields=FIELDS,
    route=st.builds(Route, NAMES, NAMES),
    node=NAMES,
    holder=NAMES,
    outcome=OUTCOMES,
    blobs=BLOBS,
    failures=NAMES,
    why=TEXTS,
)
def test_a_job_and_its_outcome_read_back(
    server: RedisServer,
    worker_name: str,
    job_id: int,
    fields: dict[str, Any],
    route: Route,
    node: str,
    holder: str,
    outcome: Outcome,
    blobs: list[bytes],
    failures: str,
    why: str,
) -> None:
    kit = kit_of(server, worker_name)
    ledger = kit.ledger
    job = Job({**fields, "id": job_id})
    assert ledger.admit([(job, route)], asked_at=kit.now()) == ["admitted"]
    task_id = ledger.claimed(job_id)
    assert task_id is not None
    assert ledger.sent({job_id: task_id}, wait_seconds=LATER) == {job_id: "sent"}
    run = RunKey(job_id, task_id)
    started = ledger.start(run, task_name=route.task_name, node=node, holder=holder, lease=LATER, nonce="n")
    assert started.job is not None
    assert (started.job.id, dict(started.job)) == (job_id, dict(job))
    assert ledger.renew([(job_id, task_id)], holder=holder, lease=LATER, wait_seconds=LATER) == {}
    assert ledger.finish(run, outcome, blobs=blobs, deliver_seconds=0) == "finished"
    (delivery,) = ledger.collect(10, lease=LATER)
    assert delivery == DeliveryKey(job_id, task_id, 1)
    assert ledger.delivered_part(delivery, "artifact:0", failures, lease=LATER)
    assert ledger.undelivered(delivery, why, wait_seconds=0, failures=failures)
    record = kit.record(job_id)
    assert (record.job, record.outcome) == (job, outcome)
    assert (record.route.task_name, record.route.queue, record.node) == (route.task_name, route.queue, node)
    assert (record.parts, record.failures) == ({"artifact:0": failures}, failures)
    assert line(why).startswith(record.why.rstrip("…")[:100])
    for index, blob in enumerate(blobs):
        assert kit.redis.hget(kit.key(f"payload:{job_id}"), f"blob:{index}") == blob
    for event in ledger.events(job_id):
        assert event.note.isprintable()
    (row,) = ledger.inventory().rows.values()
    assert (row.id, row.state, row.queue) == (job_id, "finished", route.queue)
    assert ledger.close(job_id, task_id, "delivered")
    assert kit.state(job_id) == "closed"


@examples(60)
@given(worker_name=NAMES, job_id=JOB_IDS, whys=st.lists(TEXTS, min_size=6, max_size=6), outcome=OUTCOMES)
def test_any_reason_can_be_recorded(
    server: RedisServer, worker_name: str, job_id: int, whys: list[str], outcome: Outcome
) -> None:
    kit = kit_of(server, worker_name)
    ledger, failed = kit.ledger, {"must_not": outcome, "too_often": outcome}
    run = kit.bring("claimed", job_id)
    published = {"tries": 9, "seconds": LATER, "most_wait_seconds": 1, "exhausted": outcome}
    assert ledger.unpublished(job_id, run.task_id, why=whys[0], **published) in ("new", "again")  # type: ignore[arg-type]
    assert ledger.sent({job_id: run.task_id}, wait_seconds=LATER) == {job_id: "sent"}
    assert ledger.resend(job_id, run.task_id, why=whys[1], budget=3, wait_seconds=0, exhausted=outcome) == "again"
    assert kit.start(run).job is not None
    assert ledger.postpone(run, nonce="first", why=whys[2], times=3, wait_seconds=0) == "again"
    run = kit.run(job_id)
    ledger.sent({job_id: run.task_id}, wait_seconds=LATER)
    assert kit.start(run, nonce="second").job is not None
    assert ledger.lose(job_id, run.task_id, retries=run.retries, holder="", why=whys[3], **failed) in ("again", "kept")
    assert ledger.requeue(job_id, kit.run(job_id).task_id, whys[4], wait_seconds=0) == "requeued"
    assert ledger.abort(job_id, whys[5])
    assert kit.state(job_id) == "aborted"
    events = ledger.events(job_id)
    assert all(event.note.isprintable() for event in events)
    assert events[-1].event == "aborted"


@examples(30)
@given(worker_name=NAMES, job_id=JOB_IDS, note=TEXTS, outcome=OUTCOMES, blobs=BLOBS)
def test_a_deferred_job_reads_back(
    server: RedisServer, worker_name: str, job_id: int, note: str, outcome: Outcome, blobs: list[bytes]
) -> None:
    kit = kit_of(server, worker_name)
    run = kit.bring("running", job_id)
    key = kit.key_of(run)
    assert kit.defer(run, note=note) == "deferred"
    assert line(note).startswith(kit.record(job_id).note.rstrip("…")[:100])
    assert kit.complete(key, outcome, blobs=blobs) == "completed" or kit.state(job_id) == "finished"
    assert kit.record(job_id).outcome == outcome


@examples(30)
@given(name=NAMES, texts=st.lists(TEXTS, min_size=4, max_size=4), number=st.floats(0, 1e12))
def test_shared_knowledge_reads_back(server: RedisServer, name: str, texts: list[str], number: float) -> None:
    ledger = kit_of(server, name).ledger
    registration = Registration(texts[0], {texts[1]: texts[2]}, number, {texts[1]: [texts[3]]})
    ledger.note_registration(registration)
    assert ledger.registered() == registration
    refusal = TokenRefusal(3, 401, texts[0], is_open=True)
    ledger.note_refused_token(name, refusal)
    assert ledger.refused_token(name) == refusal
    pause = Pause(texts[0], number, texts[1])
    ledger.pause(pause)
    assert ledger.snapshot(()).pause == pause
    assert ledger.resume()
    bridge = BridgeProcess(name, texts[0], texts[1], number, app_version=texts[2], handlers=(texts[3],))
    ledger.announce_bridge(bridge, seconds=LATER)
    assert ledger.bridges() == [bridge]
