"""Shell commands that dispatch a copy of a job. They contain no token, only the names of its variables."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from ..store import given_fields

_HEADERS = (
    '-H "Authorization: Bearer ${MODELREINS_API_KEY:-$MODELREINS_TOKEN}" '  # as `mr-celery dispatch` chooses
    "-H 'Content-Type: application/json'"
)

_DISPATCH = 'mr-celery -A "${APP:-proj}" dispatch'


def curl_line(job: Mapping[str, Any], url: str) -> str:
    """A command that dispatches a copy of a job with curl.

    Args:
        job: the job.
        url: the base URL of the sandbox.
    """
    return f"curl -sS {shlex.quote(f'{url}/dispatch')} {_HEADERS} -d {shlex.quote(_json(_with_worker(job)))}"


def dispatch_line(job: Mapping[str, Any], url: str) -> str:
    """A command that dispatches a copy of a job with ``mr-celery dispatch``.

    The application is named by the celery command's variable ``APP``, or is ``proj`` as in the documentation. Text that
    a terminal could take for keystrokes is passed as JSON, as are names that cannot be options.
    """
    fields, worker, server = _fields(job), job["assigned_to"] or "", ["--url", url]
    if worker and _is_typed(worker):
        server += ["--name", worker]
    words = [*server, *_options(fields), *(["--"] if fields["prompt"].startswith("-") else []), fields["prompt"]]
    if all(map(_is_typed, (worker, *words))) and all(name and "=" not in name for name in fields):
        return f"{_DISPATCH} {shlex.join(words)}"
    line = shlex.quote(_json(_with_worker(job)))
    return f"printf '%s\\n' {line} | {_DISPATCH} {shlex.join(server)} --from-file -"


def _with_worker(job: Mapping[str, Any]) -> dict[str, Any]:
    return {**_fields(job), **({"worker": job["assigned_to"]} if job["assigned_to"] else {})}


def _fields(job: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a dispatch repeats."""
    fields = given_fields(job)
    if fields["priority"] == "normal":
        del fields["priority"]
    return fields


def _options(fields: Mapping[str, Any]) -> list[str]:
    words = []
    for name, value in fields.items():
        if name == "capability" and isinstance(value, str) and value:
            words += ["--capability", value]
        elif name != "prompt":
            words += ["--field", f"{name}={_as_field(value)}"]
    return words


def _as_field(value: Any) -> str:
    """A value for ``--field``, which takes what is not JSON as text."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except (ValueError, RecursionError):
            return value
    return _json(value)


def _is_typed(text: str) -> bool:
    """Whether a terminal inserts a text unchanged when it is pasted."""
    return text.replace("\n", "").isprintable()


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if _is_typed(text) else json.dumps(value)
