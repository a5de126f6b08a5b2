"""The Celery message of a job: its headers, its publish options, its encoding, and reading the job back from it.

The bridge writes such messages and workers read them. A message identifies the job, but has none of its content.
The worker reads that from the ledger.

The encoding protects a job from workers that have its task but take no jobs, because they lack the ledger's address or
run code without the decorator. They would call the task without arguments. Celery cannot check whether a worker
supports a header, but kombu checks whether it can read a message's *compression*. So a job's message is published with
Celery's option ``compression=``, under a separate name for each task:

* kombu looks the name up when the message arrives. If the runner does not wrap the task, the name is missing or its
  decoder refuses. Celery then logs the message as undecodable and acknowledges it. Nothing runs, no result is stored,
  and no task id is revoked.
* The headers are not encoded. Routing, rate limits, priorities, events and Flower work by the task's name as usual.

A message that was dropped in this way is sent again, like any message that no worker started. ``docs/guarantees.md``
describes the cost.
"""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kombu import compression

from .errors import MrCeleryError
from .job import MAX_JOB_ID
from .ledger import MemberKey, RunKey
from .telemetry.logs import JobLog
from .telemetry.printing import printable

HEADER = "modelreins"
"""The message header that names the job."""

STAMP = "modelreins"
"""The Celery stamp of a workflow's members. It names the attempt that handed its job over, and its worker name."""

CONTENT_TYPE = "application/x-modelreins-job"
"""The prefix of the names under which the encodings are registered with kombu."""

MOST_NAME_BYTES = 200
"""Maximum length of a worker name, as in the settings."""

MOST_ID_BYTES = 1000
"""Maximum length of a member's task id, which an application may have chosen."""

_TASK_ID = re.compile(r"mr-([0-9]{1,19})-[0-9]{1,9}-[0-9A-Za-z]{0,64}", re.ASCII)
"""The task ids of attempts."""

MAPPINGS = (dict, Mapping)
"""For ``isinstance()``: a ``dict`` is recognized at once, while the abstract class is checked by slower Python code."""

UNWRAPPED = "its task is not decorated with @modelreins_job here, or the worker was not set up"


class NotForThisWorker(MrCeleryError):
    """A job's message reached a worker that takes no jobs for its task."""


@dataclass(frozen=True)
class Message:
    """The task message of a job.

    Args:
        worker_name: the worker name whose ledger has the job.
        job_id: the job.
        task_id: the task id of the attempt.
        retries: the number of Celery retries of the attempt so far.
        task_name: the name of its task, by which Celery finds the task.
        hard_limit: seconds after which the task's hard time limit ends the run.
        soft_limit: the task's soft time limit in seconds.
    """

    worker_name: str
    job_id: int
    task_id: str
    retries: int = 0
    task_name: str = field(default="", compare=False)
    hard_limit: float | None = field(default=None, compare=False)
    soft_limit: float | None = field(default=None, compare=False)

    @property
    def key(self) -> RunKey:
        """The fencing token of the run that this message starts."""
        return RunKey(self.job_id, self.task_id, self.retries)

    def log(self, logger: logging.Logger) -> JobLog:
        """The log of the attempt."""
        return JobLog(logger, self.job_id, worker_name=self.worker_name, task_id=self.task_id, task_name=self.task_name)


def header(worker_name: str, job_id: int) -> dict[str, Any]:
    """The message headers of a job's task."""
    return {HEADER: {"worker": worker_name, "job": job_id}}


def message_options(job_id: int, task_name: str) -> dict[str, Any]:
    """The publish options of a job's task, for its first message and for each Celery retry.

    Logs, events and Flower show the job instead of arguments. The result is ignored, because nothing waits for it and
    each awaited result costs a subscription. A worker that takes no jobs for the task cannot read the message.

    Args:
        job_id: the job.
        task_name: the task's name.
    """
    return {
        "argsrepr": f"(ModelReins job {job_id})",
        "kwargsrepr": "{}",
        "ignore_result": True,
        "compression": encoding_for(task_name),
    }


def message_of(headers: Mapping[str, Any] | None, task_id: object, retries: object = 0) -> Message | None:
    """Read the headers of a job's task message; ``None`` if the message is not a job's.

    The task id must be one that the ledger makes for this job (``mr-JOB-ATTEMPT-…``). An application may copy
    the headers of a handler's message to those of other tasks, and these messages are not a job's.

    Anyone who can write to the broker can forge headers. Values that the bridge could not have written are ignored.
    The ledger decides whether the message may run.

    Args:
        headers: the message's headers.
        task_id: the message's task id.
        retries: its number of Celery retries.
    """
    headers = headers if isinstance(headers, MAPPINGS) else {}
    return _message(headers.get(HEADER), task_id, retries, headers.get("task"))


def _message(
    marks: object,
    task_id: object,
    retries: object,
    task_name: object,
    hard_limit: float | None = None,
    soft_limit: float | None = None,
) -> Message | None:
    if not isinstance(marks, MAPPINGS):
        return None
    found = _TASK_ID.fullmatch(task_id) if isinstance(task_id, str) else None
    if found is None:
        return None
    worker_name, job_id, counted = marks.get("worker"), marks.get("job"), _whole(retries) if retries else 0
    if type(job_id) is not int or job_id != int(found[1]) or job_id > MAX_JOB_ID or counted is None:
        return None
    if not _is_text(worker_name, MOST_NAME_BYTES):
        return None
    name = task_name if isinstance(task_name, str) else ""
    return Message(str(worker_name), job_id, found[0], counted, name, hard_limit, soft_limit)


def headers_of(message: Any) -> Mapping[str, Any]:
    """The headers of a kombu message; empty if they are not a mapping."""
    return message.headers if isinstance(message.headers, MAPPINGS) else {}


def _whole(value: object) -> int | None:
    """A job's id or a count, or ``None``."""
    usable = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_JOB_ID
    return value if usable else None  # type: ignore[return-value]


def _is_text(value: object, most_bytes: int) -> bool:
    """Whether a value can be a worker name or a task id: a non-empty text of at most this many bytes."""
    if not isinstance(value, str) or not 0 < len(value) <= most_bytes or min(value) < " ":
        return False
    try:
        return len(value.encode()) <= most_bytes
    except UnicodeEncodeError:  # a lone surrogate
        return False


def message_of_request(request: Any, task: Any = None) -> Message | None:
    """The job of a task's request context, or ``None``.

    Celery keeps the header in two places. Both are read, because some add-ons overwrite one of them.

    Args:
        request: the request context.
        task: its task, whose name and time limits the message gets if it has none of its own.
    """
    marks = getattr(request, HEADER, None)
    if not marks:
        headers = getattr(request, "headers", None)
        marks = headers.get(HEADER) if isinstance(headers, MAPPINGS) else None
    if not marks:
        return None
    name = getattr(request, "task", None)
    if task is None:
        return _message(marks, request.id, request.retries, name)
    hard, soft = limits_of(request, task)
    return _message(marks, request.id, request.retries, name or task.name, hard, soft)


def limits_of(request: Any, task: Any) -> tuple[float | None, float | None]:
    """The hard and the soft time limit of a task's execution in seconds: those of its message, or else of the task."""
    given = request.timelimit
    hard, soft = given if isinstance(given, (list, tuple)) and len(given) == 2 else (None, None)
    return (
        hard if hard and isinstance(hard, (int, float)) else task.time_limit,
        soft if soft and isinstance(soft, (int, float)) else task.soft_time_limit,
    )


# -- members of workflows ----------------------------------------------------------------------------


@dataclass(frozen=True)
class MemberMessage:
    """The message of a member: a task to which a handler has handed its job over.

    Args:
        worker_name: the worker name whose ledger has the job.
        key: the execution that the message starts.
        task_name: the member's task.
        hard_limit: seconds after which the task's hard time limit ends the run.
        soft_limit: the task's soft time limit in seconds.
    """

    worker_name: str
    key: MemberKey
    task_name: str = field(default="", compare=False)
    hard_limit: float | None = field(default=None, compare=False)
    soft_limit: float | None = field(default=None, compare=False)

    @property
    def job_message(self) -> Message:
        """The member as a message of its job, under the member's own task id."""
        key = self.key
        return Message(
            self.worker_name,
            key.job_id,
            key.member_id,
            key.retries,
            task_name=self.task_name,
            hard_limit=self.hard_limit,
            soft_limit=self.soft_limit,
        )

    def log(self, logger: logging.Logger) -> JobLog:
        """The log of the job, with the member's task id."""
        return self.job_message.log(logger)

    def __str__(self) -> str:
        return f"member {printable(self.task_name)} ({printable(self.key.member_id)})"


def stamp_of(worker_name: str, task_id: str) -> str:
    """The value of the stamp for an attempt."""
    return f"{task_id}@{worker_name}"


def stamped(worker_name: str, task_id: str) -> dict[str, Any]:
    """The publish options of a member of an attempt's workflow."""
    return {STAMP: stamp_of(worker_name, task_id)}


def member_of(headers: Mapping[str, Any] | None, task_id: object, retries: object = 0) -> MemberMessage | None:
    """The member that a task message starts, or ``None``.

    Args:
        headers: the message's headers.
        task_id: the message's task id.
        retries: its number of Celery retries.
    """
    headers = headers if isinstance(headers, MAPPINGS) else {}
    stamps = headers.get("stamps")
    value = stamps.get(STAMP) if isinstance(stamps, MAPPINGS) else None
    if isinstance(value, (list, tuple)):  # Celery makes a list of stamps that several visitors set
        value = value[-1] if value else None
    attempt, _, worker_name = value.partition("@") if isinstance(value, str) else ("", "", "")
    found, counted = _TASK_ID.fullmatch(attempt), _whole(retries or 0)
    job_id = _whole(int(found[1])) if found else None
    if job_id is None or counted is None:
        return None
    if not (_is_text(worker_name, MOST_NAME_BYTES) and _is_text(task_id, MOST_ID_BYTES)):
        return None
    name = headers.get("task")
    return MemberMessage(
        worker_name,
        MemberKey(job_id, attempt, str(task_id), counted),
        task_name=name if isinstance(name, str) else "",
    )


def member_of_request(request: Any) -> MemberMessage | None:
    """The member that a task's request context starts, or ``None``."""
    stamps = getattr(request, "stamps", None)
    if not stamps:
        return None
    return member_of({"stamps": stamps, "task": getattr(request, "task", None)}, request.id, request.retries)


# -- the encoding ------------------------------------------------------------------------------------


def encoding_for(task_name: str) -> str:
    """The value of Celery's ``compression=`` for the jobs of a task. It is registered with kombu.

    Only a worker that :func:`accept` prepares can decode it.

    Args:
        task_name: the task's name.
    """
    name = f"{CONTENT_TYPE}; task={task_name}"
    try:
        compression.get_encoder(name)
    except KeyError:
        compression.register(_encode, _refusal(task_name, UNWRAPPED), name)
    return name


def accept(task_name: str) -> Callable[[], None]:
    """Let this process read the messages of a task's jobs, once the runner wraps the task.

    Returns a function that undoes it.
    """
    return _decode_with(zlib.decompress, task_name)


def refuse(task_name: str, why: str) -> Callable[[], None]:
    """Keep this process from reading the messages of a task's jobs.

    Args:
        task_name: the task's name.
        why: what the worker lacks, for the error.

    Returns a function that undoes it.
    """
    return _decode_with(_refusal(task_name, why), task_name)


def _decode_with(decode: Callable[[bytes], bytes], task_name: str) -> Callable[[], None]:
    name = encoding_for(task_name)
    before = compression.get_decoder(name)
    compression.register(_encode, decode, name)
    return lambda: compression.register(_encode, before, name)


def _encode(body: bytes) -> bytes:
    return zlib.compress(body, 1)


def _refusal(task_name: str, why: str) -> Callable[[bytes], bytes]:
    def decode(body: bytes) -> bytes:
        raise NotForThisWorker(f"this worker takes no ModelReins jobs for task {task_name}: {why}")

    return decode


def stay_encoded(message: Any) -> None:
    """Keep a job's message encoded when it is returned to its broker.

    Some of kombu's transports (SQS, SQLAlchemy, file system, memory) return the decoded body. Those for Redis and
    RabbitMQ do not.

    Args:
        message: a kombu message that this process has read.
    """
    name = headers_of(message).get("compression")
    give_back = getattr(message, "serializable", None)
    if give_back is None or not (isinstance(name, str) and name.startswith(CONTENT_TYPE)):
        return

    def serializable() -> dict[str, Any]:
        form: dict[str, Any] = give_back()
        body, _ = compression.compress(message.body, name)
        form["body"], _ = message.channel.encode_body(body, message.properties.get("body_encoding"))
        form["headers"]["compression"] = name
        return form

    message.serializable = serializable
