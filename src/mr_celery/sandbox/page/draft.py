"""The form that dispatches jobs: its input, and the jobs to create."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..store import given_fields
from ..values import Body, MalformedError, digits, parse_object

MAX_JOBS = 10_000
PRIORITIES = ("low", "normal", "high")


@dataclass(frozen=True)
class Draft:
    """The fields of the form as strings."""

    prompt: str = ""
    worker: str = ""
    capability: str = ""
    tags: str = ""
    priority: str = "normal"
    fields: str = ""
    copies: str = "1"
    each_line: str = ""

    @classmethod
    def of_form(cls, form: Mapping[str, Any]) -> Draft:
        """Read a submitted form. Browsers send line breaks as CR LF."""
        texts = {name: value for name, value in form.items() if isinstance(value, str) and name in cls.__annotations__}
        return cls(**{name: value.replace("\r\n", "\n") for name, value in texts.items()})

    @classmethod
    def of_job(cls, job: Mapping[str, Any]) -> Draft:
        """Create a draft that dispatches a copy of a job."""
        rest = given_fields(job)
        del rest["prompt"], rest["priority"]
        capability = rest.pop("capability") if isinstance(rest.get("capability"), str) else ""
        tags = rest.get("tags")
        if isinstance(tags, list) and all(isinstance(each, str) and "," not in each for each in tags):
            rest.pop("tags")
        else:
            tags = []
        return cls(
            prompt=job["prompt"],
            worker=job["assigned_to"] or "",
            capability=capability,
            tags=", ".join(tags),
            priority=job["priority"],
            fields=json.dumps(rest, indent=2, ensure_ascii=False) if rest else "",
        )

    def prompts(self) -> list[str]:
        """The prompts of all jobs.

        Raises:
            MalformedError: the prompt is empty, or there are too many jobs.
        """
        lines = [self.prompt] if not self.each_line else [line for line in self.prompt.split("\n") if line.strip()]
        copies = digits(self.copies.strip())
        if not copies or copies * len(lines) > MAX_JOBS:
            raise MalformedError(f"Copies: must be a whole number from 1, for at most {MAX_JOBS} jobs at once")
        if not any(line.strip() for line in lines):
            raise MalformedError("Prompt: must not be empty")
        return lines * copies

    def further(self) -> Body:
        """All fields except prompt and worker.

        Raises:
            MalformedError: a field is invalid.
        """
        try:
            fields = dict(parse_object(self.fields.encode("utf-8", "replace"))) if self.fields.strip() else {}
        except MalformedError as error:
            raise MalformedError(
                f'Further fields: must be a JSON object such as {{"model": "small"}} ({error})'
            ) from error
        if self.capability.strip():
            fields["capability"] = self.capability.strip()
        if tags := [tag.strip() for tag in self.tags.split(",") if tag.strip()]:
            fields["tags"] = tags
        if self.priority and self.priority != "normal":
            fields["priority"] = self.priority
        return fields
