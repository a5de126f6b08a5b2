"""Shell commands that dispatch a job once more, as a shell reads them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from mr_celery.operations.dispatch import parse_field, parse_lines
from mr_celery.sandbox.page.shell_lines import curl_line, dispatch_line
from mr_celery.sandbox.store import Store

URL = "http://127.0.0.1:8765"
DISPATCH = ["mr-celery", "-A", "${APP:-proj}", "dispatch"]
PROMPTS = (
    "plain",
    "",
    "-x",
    "two\nlines",
    'it\'s "quoted" $HOME `id` $(id) \\ !! 🎨',
    "\x1b[2Jescaped\x03\t\r",
    "\u202ebidi\x7f",
)
FIELDS: tuple[dict[str, Any], ...] = (
    {},
    {"capability": "a.b", "tags": ["x", "it's"], "priority": "high", "n": 1, "s": "1", "t": "null", "none": None},
    {"capability": ["a"], "input": {"deep": ["é\x1b"]}, "text": "a=b"},
    {"a=b": 1},
    {"": 1},
    {"x\x1b": "y"},
)


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()
    yield made
    made.close()


def dispatched(line: str) -> dict[str, Any]:
    """What ``mr-celery dispatch`` sends for a line."""
    words = shlex.split(line)
    if words[0] == "printf":
        assert words[:2] == ["printf", "%s\\n"]
        assert words[3:8] == ["|", *DISPATCH]
        (job,) = parse_lines([words[2]], {})
        return job
    assert words[:6] == [*DISPATCH, "--url", URL]
    found: dict[str, Any] = {}
    rest = words[6:]
    while rest and rest[0].startswith("--") and rest[0] != "--" and len(rest) > 1:
        option, value, *rest = rest
        if option == "--field":
            name, parsed = parse_field(value)
            found[name] = parsed
        else:
            found[{"--name": "worker", "--capability": "capability"}[option]] = value
    (prompt,) = rest[1:] if rest[0] == "--" else rest
    return {**found, "prompt": prompt}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_both_lines_repeat_the_job_and_nothing_else(store: Store, prompt: str) -> None:
    for worker in ("w", "it's\x1b", None):
        for fields in FIELDS:
            job = store.create(prompt, worker, fields)
            wanted = {**fields, "prompt": prompt, **({"worker": worker} if worker else {})}
            curl = curl_line(job, URL)
            words = shlex.split(curl)
            assert (words[0], words[2]) == ("curl", f"{URL}/dispatch")
            assert json.loads(words[words.index("-d") + 1]) == wanted
            assert '"Authorization: Bearer ${MODELREINS_API_KEY:-$MODELREINS_TOKEN}"' in curl
            assert dispatched(dispatch_line(job, URL)) == wanted
            for line in (curl, dispatch_line(job, URL)):
                assert line.replace("\n", "").isprintable(), "a terminal takes these characters for keystrokes"
