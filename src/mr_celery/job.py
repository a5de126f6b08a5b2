"""A job as the server gave it: a read-only mapping with attributes for the known fields."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from .errors import JobAborted, JobError, MrCeleryError
from .job_secrets import WORDS, hide_secrets
from .telemetry.tracebacks import hides_variables

PRIORITIES = ("high", "normal", "low")
"""The priorities of the product documentation, the most urgent first."""

MAX_JOB_ID = 2**63 - 1


def _strings(value: Any) -> tuple[str, ...]:
    """The strings in a field that should be a list of strings, but may hold any JSON value."""
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, (list, tuple)):
        return ()
    names = (item.get("name") if isinstance(item, Mapping) else item for item in value)
    return tuple(name.strip() for name in names if isinstance(name, str) and name.strip())


def _why(error: Exception) -> str:
    """The reason why JSON cannot be loaded, without repeating its contents."""
    if isinstance(error, json.JSONDecodeError):
        return f"it is not JSON ({error.msg})"
    if isinstance(error, UnicodeError):
        return "it is not UTF-8"
    if isinstance(error, ValueError):
        return "it has an integer of too many digits for this Python"
    return "it is not an object"


def priority_of(fields: Mapping[str, Any]) -> str:
    """The priority in a job's fields; an unknown or missing one counts as ``normal``."""
    named = fields.get("priority")
    priority = named.lower() if isinstance(named, str) else ""
    return priority if priority in PRIORITIES else "normal"


class Job(Mapping[str, Any]):
    """One ModelReins job, as a read-only mapping of all its fields.

    Each field is available as ``job["name"]``. The known ones are attributes as well, with a safe default if the server
    sent no usable value. Only ``id`` is guaranteed.

    Args:
        fields: the job object as the server sent it.

    Raises:
        JobError: ``fields`` has no usable ``id``.

    Example::

        @modelreins_job("email.triage")
        @app.task
        def triage(job):
            return f"{job.id}: {job.prompt} for {job.get('customer', 'unknown')}"
    """

    __slots__ = ("_capabilities", "_fields", "_is_aborted", "_may_have_secrets", "_reference")

    def __init__(self, fields: Mapping[str, Any]) -> None:
        job_id = fields.get("id")
        if isinstance(job_id, bool) or not isinstance(job_id, int):
            raise JobError(f"a job's id is a positive integer, not {type(job_id).__name__}")
        if not 0 <= job_id <= MAX_JOB_ID:
            raise JobError(f"a job's id is a positive integer, not {job_id}")
        self._fields = dict(fields)
        self._is_aborted: Callable[[], bool] | None = None
        self._reference: Callable[[], str] | None = None
        self._capabilities: tuple[str, ...] | None = None
        self._may_have_secrets = True

    def watched(self, is_aborted: Callable[[], bool], reference: Callable[[], str] | None = None) -> Job:
        """A copy of the job whose :attr:`aborted` and :attr:`ref` call these functions. They are not pickled."""
        job = Job.__new__(Job)
        job._fields = self._fields.copy()
        job._capabilities = self._capabilities
        job._may_have_secrets = self._may_have_secrets
        job._is_aborted = is_aborted
        job._reference = reference
        return job

    def hide_secrets(self, required: Collection[str] = ()) -> frozenset[str]:
        """Hide the secret values of the fields in their reprs. They still compare equal to plain strings.

        Args:
            required: the names of the secrets that the handler requires.

        Returns:
            The secret values that are long enough to be masked in texts.
        """
        if not required and not self._may_have_secrets:
            return frozenset()
        return hide_secrets(self._fields, required)

    def __getitem__(self, key: str) -> Any:
        return self._fields[key]

    def __contains__(self, key: object) -> bool:
        return key in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<Job {self.id}>"  # never the prompt: reprs end up in logs

    __sentry_repr__ = __repr__  # otherwise Sentry sends all fields, as it does for any mapping

    def __reduce__(self) -> tuple[type[Job], tuple[dict[str, Any]]]:
        return Job, (self._fields,)  # without the callbacks: a pickled job may leave the process of its run

    def __json__(self) -> dict[str, Any]:
        """The form in which kombu's JSON serializer writes a job that a handler passes to another task."""
        return dict(self._fields)

    def to_json(self) -> str:
        """The job as JSON text, for the ledger."""
        return json.dumps(self._fields, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Job:
        """The job that :meth:`to_json` wrote.

        Raises:
            JobError: the text cannot be loaded.
        """
        try:
            text = text.decode() if isinstance(text, bytes) else text
            job = cls(json.loads(text))
        except RecursionError:
            raise JobError("the job cannot be loaded here: it is nested too deeply for this Python") from None
        except (ValueError, AttributeError, TypeError) as error:
            raise JobError(f"the job cannot be loaded here: {_why(error)}") from None
        # Most jobs have no secrets, and searching the text is faster than searching the fields.
        job._may_have_secrets = any(map(text.lower().__contains__, WORDS))
        return job

    @property
    @hides_variables
    def aborted(self) -> bool:
        """Whether the handler should stop, because its run has lost the job.

        An operator aborted the job, or another worker has taken it after this one was cut off for longer than its
        lease. The handler's result is discarded in both cases. The value is at most about a second old, and reading it
        in a tight loop is cheap. While the ledger is unavailable, the last known value is kept. Outside of a run it is
        ``False``.

        Example::

            @modelreins_job("video.render")
            @app.task
            def render(job):
                for frame in range(job["frames"]):
                    if job.aborted:
                        remove_frames()
                        break
                    render_frame(frame)
        """
        return self._is_aborted is not None and self._is_aborted()

    @hides_variables
    def raise_if_aborted(self) -> None:
        """Stop the handler if its run has lost the job (see :attr:`aborted`).

        Raises:
            JobAborted: the handler should stop. Let the exception pass: the run then ends without a result, and
                ``on_error=`` is not called.

        Example::

            for page in pages:
                job.raise_if_aborted()
                translate(page)
        """
        if self.aborted:
            raise JobAborted(
                f"job {self.id} was aborted on the server or given to another worker: the handler must stop"
            )

    @property
    @hides_variables
    def ref(self) -> str:
        """A reference with which any process can end the job after its handler has returned a :class:`Deferred`.

        It fits into an address: at most 200 characters, all of them URL-safe. It cannot be guessed, and whoever has it
        can end the job, so do not log it. It is valid only for this attempt of the job. The first use costs a
        request to the ledger.

        Raises:
            MrCeleryError: the job is not that of a running handler.
            JobAborted: the run has lost the job.
            LedgerUnavailable: the ledger is unreachable for longer than 30 s.
        """
        if self._reference is None:
            raise MrCeleryError("job.ref exists only while a handler of the job runs")
        return self._reference()

    def _text(self, name: str) -> str:
        value = self._fields.get(name)
        return value if isinstance(value, str) else ""

    @property
    def id(self) -> int:
        """The job's number on the server."""
        return int(self._fields["id"])

    @property
    def prompt(self) -> str:
        """The job's instructions."""
        return self._text("prompt")

    @property
    def assigned_to(self) -> str:
        """The worker name the job is assigned to."""
        return self._text("assigned_to")

    @property
    def status(self) -> str:
        """``pending`` when it was claimed."""
        return self._text("status")

    @property
    def input(self) -> Any:
        """Further input, of any JSON type; ``None`` if there is none."""
        return self._fields.get("input")

    @property
    def provider(self) -> str:
        """The requested model provider."""
        return self._text("provider")

    @property
    def model(self) -> str:
        """The requested model."""
        return self._text("model")

    @property
    def tier(self) -> str:
        """The job's tier."""
        return self._text("tier")

    @property
    def priority(self) -> str:
        """``high``, ``normal`` or ``low``; anything else counts as ``normal``."""
        return priority_of(self._fields)

    @property
    def tags(self) -> tuple[str, ...]:
        """The job's tags."""
        return _strings(self._fields.get("tags"))

    @property
    def capabilities(self) -> tuple[str, ...]:
        """The required capabilities: the job's ``capability`` and ``capabilities``, or else its tags."""
        if self._capabilities is None:  # cached, because each handler compares them
            self._capabilities = self.named_capabilities or self.tags
        return self._capabilities

    @property
    def named_capabilities(self) -> tuple[str, ...]:
        """The capabilities in the job's ``capability`` and ``capabilities``, without its tags."""
        return _strings([self._fields.get("capability")]) + _strings(self._fields.get("capabilities"))
