"""Dispatches jobs to a worker name, and follows them to their end."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from errno import ECONNREFUSED, EHOSTUNREACH, ENETUNREACH
from typing import Any

from ..bridge.routes import registry_of
from ..clients import Clients
from ..errors import LedgerUnavailable, MrCeleryError, SettingsError, WorkerError, as_text
from ..server import Dispatcher, phase_of
from ..settings import Settings, api_key, require

FIRST_PAUSE = 0.2
"""Time between the first two reads of a job, in seconds. It grows up to a second."""

PENDING_SECONDS = 10.0
"""Time after which a job that is still pending is reported, in seconds."""

NOT_READABLE = (401, 403, 404, 405)
"""Statuses of a server that does not let a token read jobs."""

_UNREACHABLE = re.compile(rf"\[Errno (-\d+|{ECONNREFUSED}|{EHOSTUNREACH}|{ENETUNREACH})\]")
"""The message of an error before a connection was made; negative numbers are those of name resolution."""


@dataclass(frozen=True)
class Ended:
    """The end of a dispatched job, or its last known state after a timeout.

    Args:
        id: the job.
        status: its status, as the server reports it.
        over: whether the job has ended.
        seconds: time since it was dispatched.
        output: its output.
        artifacts: the addresses of its artifacts.
    """

    id: int
    status: str
    over: bool
    seconds: float
    output: str = field(default="", repr=False)
    artifacts: Sequence[str] = ()


def parse_field(text: str) -> tuple[str, Any]:
    """Parse ``NAME=VALUE``. The value is JSON if it can be read as such, and text otherwise.

    Raises:
        ValueError: there is no name.
    """
    name, separator, value = text.partition("=")
    if not name or not separator:
        raise ValueError
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def parse_lines(lines: Iterable[str], common: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Parse the fields of one job per line. Empty lines are skipped.

    Args:
        lines: JSON objects, each with a ``prompt``.
        common: values for the fields that a line omits.

    Raises:
        MrCeleryError: a line is not such an object. The message has its number.
    """
    jobs = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise MrCeleryError(f"line {number} is not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise MrCeleryError(f'line {number} is not an object such as {{"prompt": "a cat"}}')
        if not isinstance({**common, **fields}.get("prompt"), str):
            raise MrCeleryError(f'line {number} needs a "prompt", which must be a string')
        jobs.append({**common, **fields})
    return jobs


def name_for(app: Any, settings: Settings, capability: str | None) -> str:
    """The worker name that jobs are dispatched to: the only one, or the one that offers a capability.

    Raises:
        SettingsError: several names are possible.
    """
    named = settings.each()
    offering = named if len(named) == 1 else [each for each in named if _offers(app, each, capability)]
    if len(offering) != 1:
        names = ", ".join(each.name for each in named)
        raise SettingsError(f"there are several worker names ({names}): choose one with --name")
    return offering[0].name


def _offers(app: Any, settings: Settings, capability: str | None) -> bool:
    return capability is not None and capability in registry_of(app, settings).offered


def _awaits_approval(status: str) -> bool:
    """Whether a job waits for a person's approval. The product does not document the name of this status."""
    return "approv" in status.casefold()


class Session:
    """Dispatches jobs to one worker name, and follows them to their end.

    Args:
        settings: the settings of the worker name.
        clock: monotonic clock in seconds.
        sleep: waits for a number of seconds.

    Raises:
        SettingsError: there is neither an API key nor a token.
        WorkerError: the server's address or the token cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings = settings
        self._with_key = bool(api_key())
        self._dispatcher = Dispatcher(settings.url, api_key() or require(settings, "token"), timeout=settings.timeout)
        self._clock = clock
        self._sleep = sleep
        self._began: dict[int, float] = {}

    @classmethod
    @contextmanager
    def open(cls, settings: Settings) -> Iterator[Session]:
        """Open a session for the block."""
        session = cls(settings)
        with closing(session._dispatcher):
            yield session

    def dispatch(self, fields: Mapping[str, Any]) -> int:
        """Dispatch a job. Returns its id.

        Raises:
            MrCeleryError: the server refused it, or it is not known whether it was dispatched.
        """
        try:
            job_id = int(self._dispatcher.dispatch({"worker": self._settings.name, **fields})["id"])
        except WorkerError as error:
            raise MrCeleryError(self._refusal(error)) from None
        self._began[job_id] = self._clock()
        return job_id

    def _refusal(self, error: WorkerError) -> str:
        """Explain a refused dispatch in one line."""
        answer = " ".join(str(error).split())
        whose = "the API key in MODELREINS_API_KEY" if self._with_key else "the worker's token"
        if error.status == 401:
            return f"{self._settings.url} does not know {whose}: {answer}"
        if error.status == 403:
            instead = "" if self._with_key else "; set MODELREINS_API_KEY to the API key of a user"
            return f"{whose} may not dispatch jobs{instead}: {answer}"
        if error.status in (404, 405):
            return f"{self._settings.url} has no route to dispatch jobs; is it a ModelReins server's address? {answer}"
        if error.status == 503:
            return (
                f"no worker is eligible for the job: is a bridge online for worker name {self._settings.name!r}, and "
                f"is the capability registered? {answer}"
            )
        if error.status is None and _UNREACHABLE.search(answer):
            return f"{self._settings.url} cannot be reached: {answer}"
        if error.status is None:
            return f"{self._settings.url} did not answer, so the job may have been dispatched or not: {answer}"
        return answer

    def follow(
        self, job_id: int, *, until: float | None, changed: Callable[[str], object], trouble: Callable[[str], object]
    ) -> Ended:
        """Read a job until it is over.

        Args:
            job_id: the job.
            until: clock time at which to give up; ``None`` for no limit.
            changed: called with each new status.
            trouble: called with a reason why it takes long: the server cannot be read, or the job is still pending.

        Raises:
            MrCeleryError: this token may not read the job.
        """
        began = self._began.get(job_id, self._clock())
        status, pause, in_trouble, long_pending = "pending", FIRST_PAUSE, False, False
        while True:
            try:
                job = self._dispatcher.job(job_id)
                in_trouble = False
                now = str(job.get("status") or "pending")
                if now != status:
                    status = now
                    changed(status)
                if phase_of(status) == "over" and not _awaits_approval(status):
                    return self._ended(job_id, status, job, self._clock() - began)
            except WorkerError as error:
                if error.status in NOT_READABLE:
                    raise MrCeleryError(
                        f"job {job_id} was dispatched, but this token may not read it: its outcome is on the server "
                        f"({error.summary})"
                    ) from None
                if not in_trouble:
                    trouble(error.summary)
                in_trouble = True
            if status == "pending" and not long_pending and self._clock() - began > PENDING_SECONDS:
                long_pending = True
                trouble(f"job {job_id} is still pending; `celery -A proj modelreins status` shows why jobs wait")
            if until is not None and self._clock() + pause > until:
                return Ended(job_id, status, False, self._clock() - began)
            self._sleep(pause)
            pause = min(1.0, pause * 1.2)

    def deadline(self, seconds: float | None) -> float | None:
        """The clock time in ``seconds`` from now; ``None`` for no limit."""
        return None if seconds is None else self._clock() + seconds

    def _ended(self, job_id: int, status: str, job: Mapping[str, Any], seconds: float) -> Ended:
        output = as_text(job.get("result", job.get("output")))
        return Ended(job_id, status, True, seconds, output, self._artifacts(job_id))

    def _artifacts(self, job_id: int) -> list[str]:
        """The addresses of a job's artifacts, from the server or, if it has no list of them, from the ledger."""
        try:
            if (listed := self._dispatcher.artifacts(job_id)) is not None:
                return listed
            record = Clients(self._settings).ledger().read(job_id)
        except (WorkerError, LedgerUnavailable, SettingsError):
            return []
        parts = record.parts if record is not None else {}
        answers = [json.loads(answer) for part, answer in sorted(parts.items()) if part.startswith("artifact:")]
        return [self._dispatcher.address(answer["url"]) for answer in answers]
