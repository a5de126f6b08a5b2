"""Errors of the broker that a worker survives, and messages that it cannot decode."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from celery import bootsteps
from redis.exceptions import RedisError

from ..message import headers_of, message_of
from ..telemetry.printing import printable
from .reports import report_of
from .worker_jobs import WorkerJobs

logger = logging.getLogger("mr_celery.worker")


class BrokerErrors(bootsteps.Step):
    """Consumer step: keeps the worker alive while its broker has trouble.

    * An error of Redis counts as a lost connection, so that the worker reconnects. Redis refuses commands while it is a
      replica or out of memory. Celery's setting ``broker_channel_error_retry`` does the same, but for all brokers, and
      the refusals of others mean wrong declarations.
    * An error while the lost connection is closed is logged. With unacknowledged messages, kombu's Redis transport
      raises an ``AttributeError`` there (kombu issue 582).
    * A job's message that this worker cannot decode is reported to the ledger.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)
    label = "ModelReins broker errors"

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        consumer.connection_errors += (RedisError,)
        consumer.on_connection_error_after_connected = partial(
            _close_and_continue, consumer.on_connection_error_after_connected
        )
        consumer.on_decode_error = partial(_on_decode_error, consumer, consumer.on_decode_error)


def _close_and_continue(close: Callable[[Exception], Any], error: Exception) -> None:
    try:
        close(error)
    except Exception as failure:
        logger.warning("the lost connection to the broker was not closed cleanly: %s", type(failure).__name__)


def _on_decode_error(consumer: Any, drop: Callable[[Any, Exception], Any], message: Any, error: Exception) -> None:
    """Drop a message that Celery cannot decode. Report it if it is a job's: its task is not decorated here."""
    drop(message, error)
    jobs, headers = WorkerJobs.of(consumer.app), headers_of(message)
    job = message_of(headers, headers.get("id"))
    if job is not None and job.task_name and jobs is not None:
        why = (
            f"the worker {consumer.hostname} could not read its message: its task {printable(job.task_name)} is not "
            f"decorated there ({type(error).__name__})"
        )
        # Not sent again at once: while workers are being updated, one that can read it may soon be online.
        report_of(jobs, job).not_started(why, wait_seconds=jobs.clients.settings.lease)
