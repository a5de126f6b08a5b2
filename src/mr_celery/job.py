"""A job as the server gave it: a read-only mapping with attributes for the known fields."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from .errors import JobError

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

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, Any]) -> None:
        job_id = fields.get("id")
        if isinstance(job_id, bool) or not isinstance(job_id, int):
            raise JobError(f"a job's id is a positive integer, not {type(job_id).__name__}")
        if not 0 <= job_id <= MAX_JOB_ID:
            raise JobError(f"a job's id is a positive integer, not {job_id}")
        self._fields = dict(fields)

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
        priority = self._text("priority").lower()
        return priority if priority in PRIORITIES else "normal"

    @property
    def tags(self) -> tuple[str, ...]:
        """The job's tags."""
        return _strings(self._fields.get("tags"))

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What the job asks for: its ``capability`` or ``capabilities``, or else its tags."""
        named = _strings([self._fields.get("capability")]) + _strings(self._fields.get("capabilities"))
        return named or self.tags
