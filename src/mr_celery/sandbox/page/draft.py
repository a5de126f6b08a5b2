"""The form that dispatches jobs: what was typed, and the jobs that it asks for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..store import SERVER_FIELDS
from ..values import Body, MalformedError, digits, parse_object

MOST_JOBS = 10_000
PRIORITIES = ("low", "normal", "high")


@dataclass(frozen=True)
class Draft:
    """What the form holds, each as its text."""

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
        """What was sent. A browser ends the lines of a text as typewriters did."""
        texts = {name: value for name, value in form.items() if isinstance(value, str) and name in cls.__annotations__}
        return cls(**{name: value.replace("\r\n", "\n") for name, value in texts.items()})

    @classmethod
    def of_job(cls, job: Mapping[str, Any]) -> Draft:
        """What would dispatch a job like this one."""
        rest = {name: value for name, value in job.items() if name not in {*SERVER_FIELDS, "prompt", "priority"}}
        capability = rest.pop("capability") if isinstance(rest.get("capability"), str) else ""
        tags = rest.get("tags")
        if isinstance(tags, list) and all(isinstance(each, str) and "," not in each for each in tags):
            rest.pop("tags")
        else:
            tags = []
        return cls(
            prompt=job["prompt"],
            worker=job["assigned_to"],
            capability=capability,
            tags=", ".join(tags),
            priority=job["priority"],
            fields=json.dumps(rest, indent=2, ensure_ascii=False) if rest else "",
        )

    def prompts(self) -> list[str]:
        """The prompt of each job.

        Raises:
            MalformedError: there is none, or there are too many.
        """
        lines = [self.prompt] if not self.each_line else [line for line in self.prompt.split("\n") if line.strip()]
        copies = digits(self.copies.strip())
        if not copies or copies * len(lines) > MOST_JOBS:
            raise MalformedError(f"Copies: a whole number from 1; at most {MOST_JOBS} jobs at once")
        if not any(line.strip() for line in lines):
            raise MalformedError("Prompt: say what is to be done")
        return lines * copies

    def further(self) -> Body:
        """All fields but prompt and worker.

        Raises:
            MalformedError: a field is not what it must be.
        """
        try:
            fields = dict(parse_object(self.fields.encode("utf-8", "replace"))) if self.fields.strip() else {}
        except MalformedError as error:
            raise MalformedError(f'Further fields: a JSON object such as {{"model": "small"}} ({error})') from error
        if self.capability.strip():
            fields["capability"] = self.capability.strip()
        if tags := [tag.strip() for tag in self.tags.split(",") if tag.strip()]:
            fields["tags"] = tags
        if self.priority and self.priority != "normal":
            fields["priority"] = self.priority
        return fields
