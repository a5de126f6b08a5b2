"""The encoding that only a worker whose tasks are wrapped by the runner can decode."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from kombu import Connection, Consumer, Producer, Queue, compression
from kombu.compression import compress, decompress

from mr_celery.message import (
    NotForThisWorker,
    accept,
    encoding_for,
    message_options,
    refuse,
    stay_encoded,
)


@pytest.fixture(autouse=True)
def as_in_a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_encoders", "_decoders"):
        monkeypatch.setattr(compression, name, dict(getattr(compression, name)))


def encoded(task: str, body: str = "[[], {}, {}]") -> tuple[bytes, str]:
    return compress(body, encoding_for(task))


def test_a_worker_that_accepts_a_tasks_jobs_reads_their_messages() -> None:
    accept("proj.mail")
    assert decompress(*encoded("proj.mail")) == b"[[], {}, {}]"


def test_any_other_process_does_not() -> None:
    accept("proj.other")
    with pytest.raises(NotForThisWorker, match=r"no ModelReins jobs for task proj.mail: .* @modelreins_job"):
        decompress(*encoded("proj.mail"))


def test_a_process_without_mr_celery_does_not_know_the_name() -> None:
    body, _ = encoded("proj.mail")
    with pytest.raises(KeyError, match=r"modelreins-job; task=proj.unknown"):
        decompress(body, encoding_for("proj.mail").replace("mail", "unknown"))


def test_a_worker_that_lacks_something_says_what() -> None:
    accept("proj.mail")
    refuse("proj.mail", "MODELREINS_LEDGER_URL is not set")
    with pytest.raises(NotForThisWorker, match=r"proj.mail: MODELREINS_LEDGER_URL is not set"):
        decompress(*encoded("proj.mail"))


def test_the_acceptance_of_a_task_can_be_undone() -> None:
    message = encoded("proj.mail")
    undo_refusal = refuse("proj.mail", "MODELREINS_LEDGER_URL is not set")
    undo = accept("proj.mail")
    assert decompress(*message) == b"[[], {}, {}]"
    undo()
    with pytest.raises(NotForThisWorker, match="MODELREINS_LEDGER_URL is not set"):
        decompress(*message)
    undo_refusal()
    with pytest.raises(NotForThisWorker, match="not decorated"):
        decompress(*message)


def test_the_body_is_unreadable_in_a_log() -> None:
    """Celery logs the body of messages that it cannot decode, and a retry's arguments may contain a job's content."""
    body, _ = encoded("proj.mail", '[[], {"prompt": "a secret of the customer"}, {}]')
    assert b"secret" not in body


def test_kombu_hands_over_what_it_cannot_read_as_undecodable() -> None:
    """The behaviour of kombu that the encoding relies on."""
    queue = Queue("codec")
    undecodable: list[tuple[Any, Exception]] = []
    read: list[Any] = []
    with Connection("memory://") as connection, connection.channel() as channel:
        producer = Producer(channel)
        for task in ("proj.mail", "proj.other"):
            producer.publish(
                [[], {}, {}],
                routing_key="codec",
                declare=[queue],
                headers={"task": task, "id": "1"},
                compression=encoding_for(task),
                serializer="json",
            )
        accept("proj.other")
        with Consumer(
            channel,
            [queue],
            on_message=read.append,
            on_decode_error=lambda message, error: undecodable.append((message, error)),
        ):
            for _ in range(2):
                connection.drain_events(timeout=1)
    ((message, error),) = undecodable
    assert isinstance(error, NotForThisWorker)
    assert message.headers["task"] == "proj.mail"
    assert [(each.headers["task"], each.payload) for each in read] == [("proj.other", [[], {}, {}])]


def test_a_message_that_is_given_back_is_encoded_as_before() -> None:
    """kombu removes the encoding, except for Redis and RabbitMQ."""
    undo = accept("proj.mail")
    queue = Queue("given-back")
    with Connection("memory://") as connection, connection.channel() as channel:
        Producer(channel).publish(
            [[], {}, {}], routing_key=queue.name, declare=[queue], compression=encoding_for("proj.mail")
        )
        for _ in range(2):
            message = queue(channel).get(accept=["json"])
            assert message.payload == [[], {}, {}]
            assert message.headers["compression"] == encoding_for("proj.mail")
            stay_encoded(message)
            message.requeue()
        undo()
        with pytest.raises(NotForThisWorker):
            queue(channel).get()


@pytest.mark.parametrize("message", [SimpleNamespace(headers={}), SimpleNamespace(headers={"compression": "gzip"})])
def test_other_messages_are_left_alone(message: Any) -> None:
    message.serializable = give_back = dict
    stay_encoded(message)
    assert message.serializable is give_back


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("coded", broker="memory://", set_as_current=False)
    yield made
    made.close()


@pytest.mark.parametrize("own", [{}, {"compression": "gzip"}], ids=["", "with a compression of its own"])
def test_celery_publishes_a_job_under_the_tasks_name(app: Celery, own: dict[str, str]) -> None:
    @app.task(name="proj.mail", shared=False, **own)
    def task() -> None: ...

    queue = app.amqp.queues["celery"]
    accept("proj.mail")
    with app.connection_for_write() as connection:
        queue(connection.default_channel).purge()  # all tests share this process' in-memory broker
        app.send_task(task.name, connection=connection, task_type=task, **message_options(7, task.name))
        message = queue(connection.default_channel).get(accept=["json"], no_ack=True)
    assert message.headers["task"] == "proj.mail"
    assert message.headers["compression"] == encoding_for("proj.mail")
    assert message.payload[:2] == [[], {}]
    assert message.headers["argsrepr"] == "(ModelReins job 7)"
