"""Errors of ``arguments=``, ``result=`` and ``review=``: some are retried, others fail the job at once."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
import ssl
from typing import Any

import django.core.exceptions
import django.db
import kombu.exceptions
import pytest
import redis
import requests
import urllib3.exceptions
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from mr_celery.celery_worker.function_retries import may_pass
from mr_celery.errors import Escalate, JobAborted, JobError, LedgerUnavailable, SettingsError, WorkerError
from mr_celery.result import JobFailed


class OfTheApplication(Exception):
    pass


class NotFoundInAModel(django.core.exceptions.ObjectDoesNotExist):
    pass


class Unreadable(Exception):
    @property
    def __class__(self) -> Any:  # type: ignore[override]
        raise SystemExit


MAY_PASS: list[BaseException] = [
    OSError(),
    ConnectionResetError(),
    TimeoutError(),
    socket.gaierror(),
    ssl.SSLError(),
    sqlite3.OperationalError("database is locked"),
    sqlite3.InterfaceError(),
    sqlite3.DatabaseError(),
    django.db.OperationalError(),
    django.db.InterfaceError(),
    kombu.exceptions.OperationalError(),
    redis.ConnectionError(),
    redis.TimeoutError(),
    requests.ConnectionError(),
    requests.HTTPError("503"),
    urllib3.exceptions.ProtocolError(),
    WorkerError("GET /x -> 503: busy", status=503, retryable=True),
    LedgerUnavailable("away"),
    OfTheApplication(),
]

RECURS: list[BaseException] = [
    KeyError("source"),
    TypeError(),
    ValueError(),
    AttributeError(),
    IndexError(),
    ZeroDivisionError(),
    AssertionError(),
    RuntimeError(),
    ImportError(),
    MemoryError(),
    Exception("no such customer"),
    json.JSONDecodeError("x", "", 0),
    UnicodeDecodeError("ascii", b"\xff", 0, 1, "x"),
    requests.exceptions.MissingSchema(),
    sqlite3.IntegrityError(),
    sqlite3.ProgrammingError(),
    django.db.DataError(),
    NotFoundInAModel(),
    django.core.exceptions.ValidationError("x"),
    WorkerError("GET /x -> 404: no", status=404),
    JobError("no field"),
    JobFailed("no"),
    Escalate("ask"),
    JobAborted("aborted"),
    SettingsError("x"),
    SoftTimeLimitExceeded(),
    Ignore(),
    Reject(),
    Retry(),
    SystemExit(),
    KeyboardInterrupt(),
    asyncio.CancelledError(),
]


@pytest.mark.parametrize("error", MAY_PASS, ids=lambda error: f"{type(error).__module__}.{type(error).__name__}")
def test_what_may_pass(error: BaseException) -> None:
    assert may_pass(error)


def test_an_exception_is_classified_without_reading_its_attributes() -> None:
    assert may_pass(Unreadable())


@pytest.mark.parametrize("error", RECURS, ids=lambda error: f"{type(error).__module__}.{type(error).__name__}")
def test_what_recurs(error: BaseException) -> None:
    assert not may_pass(error)
