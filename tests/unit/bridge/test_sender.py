"""Errors of publishing: about the message, or about the connection to the broker."""

from __future__ import annotations

import pytest
from amqp import exceptions as amqp
from celery.exceptions import QueueNotFound
from kombu.exceptions import EncodeError, LimitExceeded, OperationalError
from redis import exceptions as redis

from mr_celery.bridge.publisher import Unroutable, refuses

PUBLISH, DECLARE_QUEUE, DECLARE_EXCHANGE, NOTHING, OPEN = (60, 40), (50, 10), (40, 10), (0, 0), (10, 40)


@pytest.mark.parametrize(
    "error",
    [
        Unroutable("NO_ROUTE"),
        amqp.NotFound("NOT_FOUND - no exchange", PUBLISH),
        amqp.AccessRefused("ACCESS_REFUSED - access to exchange", PUBLISH),
        amqp.AccessRefused("ACCESS_REFUSED - access to queue", DECLARE_QUEUE),
        amqp.PreconditionFailed("PRECONDITION_FAILED - inequivalent arg", DECLARE_QUEUE),
        amqp.PreconditionFailed("PRECONDITION_FAILED - inequivalent arg", DECLARE_EXCHANGE),
        amqp.ResourceLocked("RESOURCE_LOCKED - exclusive", DECLARE_QUEUE),
        amqp.AMQPNotImplementedError("NOT_IMPLEMENTED - immediate=true", PUBLISH),
        amqp.FrameSyntaxError("Table type 'set' not handled by amqp"),
        redis.NoPermissionError("this user has no permissions to access one of the keys"),
        redis.ResponseError("WRONGTYPE Operation against a key row the wrong kind of value"),
        redis.ResponseError("Command # 1 (LPUSH celery x) of pipeline caused error: WRONGTYPE Operation against a key"),
        redis.DataError("Invalid input of type"),
        EncodeError("no encoder"),
        QueueNotFound("Queue 'x' missing from task_queues"),
        ValueError("no"),
        KeyError("no"),
        TypeError("no"),
    ],
    ids=lambda error: f"{type(error).__name__} {error}"[:60],
)
def test_these_errors_concern_the_message(error: Exception) -> None:
    assert refuses(error)


@pytest.mark.parametrize(
    "error",
    [
        OSError("connection refused"),
        TimeoutError("timed out"),
        ConnectionResetError(),
        BrokenPipeError(),
        EOFError(),
        OperationalError("nobody knows"),
        LimitExceeded(4),
        amqp.AccessRefused("ACCESS_REFUSED - Login was refused", NOTHING),
        amqp.NotAllowed("NOT_ALLOWED - vhost not found", OPEN),
        amqp.ConnectionForced("CONNECTION_FORCED - broker forced connection closure", NOTHING),
        amqp.InternalError("INTERNAL_ERROR", DECLARE_QUEUE),
        amqp.NotFound("NOT_FOUND - home node of durable queue is down or inaccessible", DECLARE_QUEUE),
        amqp.RecoverableConnectionError("connection already closed"),
        redis.ConnectionError("refused"),
        redis.TimeoutError("silent"),
        redis.AuthenticationError("WRONGPASS"),
        redis.BusyLoadingError("loading"),
        redis.ReadOnlyError("a replica"),
        redis.OutOfMemoryError("command not allowed when used memory > 'maxmemory'"),
        redis.ResponseError("MISCONF Redis is configured to save RDB snapshots"),
        redis.ResponseError("Command # 1 (SADD a b) of pipeline caused error: NOREPLICAS Not enough good replicas"),
        redis.ResponseError("BUSY Redis is busy running a script"),
    ],
    ids=lambda error: f"{type(error).__name__} {error}"[:60],
)
def test_these_errors_concern_the_broker(error: Exception) -> None:
    assert not refuses(error)
