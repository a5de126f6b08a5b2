"""A job as the server gave it: a read-only mapping with attributes for the known fields."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .errors import JobAborted, JobError

PRIORITIES = ("high", "normal", "low")
"""The priorities a job may have, the most urgent first (product documentation)."""

MAX_JOB_ID = 2**63 - 1


def _strings(value: Any) -> tuple[str, ...]:
    """The strings in a field that should be a list of them, whatever it is instead."""
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, (list, tuple)):
        return ()
    names = (item.get("name") if isinstance(item, Mapping) else item for item in value)
    return tuple(name.strip() for name in names if isinstance(name, str) and name.strip())


def priority_of(fields: Mapping[str, Any]) -> str:
    """The priority that a job's fields name; anything but the known ones counts as ``normal``."""
    named = fields.get("priority")
    priority = named.lower() if isinstance(named, str) else ""
    return priority if priority in PRIORITIES else "normal"


class Job(Mapping[str, Any]):
    """One ModelReins job, as a read-only mapping of all its fields.

    Any field is there as ``job["name"]``; the known ones are attributes too, with a safe value where
    the server sent none or nonsense: only ``id`` is certain.

    Args:
        fields: the job object as the server sent it.

    Raises:
        JobError: ``fields`` has no usable ``id``.

    Example::

        @modelreins_job("email.triage")
        @app.task
        def triage(job):
            return f"{job.id}: {job.prompt} for {job.get('customer', 'nobody')}"
    """

    __slots__ = ("_capabilities", "_fields", "_is_aborted")

    def __init__(self, fields: Mapping[str, Any]) -> None:
        job_id = fields.get("id")
        if isinstance(job_id, bool) or not isinstance(job_id, int):
            raise JobError(f"a job's id is a positive integer, not {type(job_id).__name__}")
        if not 0 <= job_id <= MAX_JOB_ID:
            raise JobError(f"a job's id is a positive integer, not {job_id}")
        self._fields = dict(fields)
        self._is_aborted: Callable[[], bool] | None = None
        self._capabilities: tuple[str, ...] | None = None

    def watched(self, is_aborted: Callable[[], bool]) -> Job:
        """The same job, as a run knows it: ``is_aborted`` answers for :attr:`aborted`. It stays in this process."""
        job = Job(self._fields)
        job._is_aborted = is_aborted
        return job

    def __getitem__(self, key: str) -> Any:
        return self._fields[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<Job {self.id}>"  # never the prompt: reprs end up in logs

    def __reduce__(self) -> tuple[type[Job], tuple[dict[str, Any]]]:
        return Job, (self._fields,)  # without the check: what is pickled leaves the run

    def __json__(self) -> dict[str, Any]:
        """What kombu's JSON serializer writes for a job that a handler passes on to another task."""
        return dict(self._fields)

    def to_json(self) -> str:
        """The job as JSON text, for the ledger."""
        return json.dumps(self._fields, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Job:
        """The job that :meth:`to_json` wrote."""
        return cls(json.loads(text))

    @property
    def aborted(self) -> bool:
        """Whether the handler is to stop, since an operator aborted the job or another worker has it by now.

        The latter is so when this worker was cut off for longer than its lease. Nothing that the handler returns counts
        then. The answer is at most about a second old, so a loop may ask as often as it likes; while the ledger
        cannot be asked, the last known answer stands. Outside of a run it is ``False``.

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

    def raise_if_aborted(self) -> None:
        """Stop the handler here if it is to stop (see :attr:`aborted`).

        Raises:
            JobAborted: the handler is to stop. Let it through: the run then ends without a trace, and ``on_error=``
                is not called.

        Example::

            for page in pages:
                job.raise_if_aborted()
                translate(page)
        """
        if self.aborted:
            raise JobAborted(
                f"job {self.id} was aborted on the server, or given to another worker: its handler is to stop"
            )

    def _text(self, name: str) -> str:
        value = self._fields.get(name)
        return value if isinstance(value, str) else ""

    @property
    def id(self) -> int:
        """The server's number of this job."""
        return int(self._fields["id"])

    @property
    def prompt(self) -> str:
        """What is to be done, in words."""
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
        """Further input, of any JSON type; ``None`` where there is none."""
        return self._fields.get("input")

    @property
    def provider(self) -> str:
        """The model provider that was asked for."""
        return self._text("provider")

    @property
    def model(self) -> str:
        """The model that was asked for."""
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
        """What the job asks for: its ``capability`` or ``capabilities``, or else its tags."""
        if self._capabilities is None:  # each handler asks for them
            named = _strings([self._fields.get("capability")]) + _strings(self._fields.get("capabilities"))
            self._capabilities = named or self.tags
        return self._capabilities
