"""Nothing from outside is executed: no pickle, no YAML, no eval, and no shell."""

from __future__ import annotations

import ast
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu.exceptions import ContentDisallowed
from kombu.message import Message

from mr_celery import modelreins_job
from mr_celery.message import accept, encoding_for, header

SOURCE = Path(__file__).parents[2] / "src"
FILES = sorted(SOURCE.rglob("*.py"))

EXECUTING = {
    *("eval", "exec", "compile", "__import__", "execfile", "input"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "jsonpickle.decode", "dill.loads", "cloudpickle.loads"),
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell"),
    *("runpy.run_path", "runpy.run_module", "code.interact"),
}
"""Calls that execute what they are given, or may."""

CONSTANT = {"mr_celery/telemetry/tracebacks.py": {"compile", "eval"}}
"""Calls that execute a constant, which makes a frame."""


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_call_executes_what_it_is_given(file: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    allowed = CONSTANT.get(str(file.relative_to(SOURCE)), set())
    assert {ast.unparse(call.func) for call in calls} & EXECUTING == allowed
    keywords = [keyword for call in calls for keyword in call.keywords if keyword.arg == "shell"]
    assert [keyword for keyword in keywords if isinstance(keyword.value, ast.Constant)] == []


def test_no_template_is_made_of_a_text() -> None:
    made = [file for file in FILES if "from_string" in file.read_text() or "jinja2.Template" in file.read_text()]
    assert made == []


class Exploit:
    """Raises an error as soon as it is unpickled."""

    def __reduce__(self) -> Any:
        return exec, ("raise AssertionError('the pickle was loaded')",)


EXPLOIT = pickle.dumps(Exploit())
YAML = b"!!python/object/apply:os.system ['false']"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-python-serialize", EXPLOIT),
        ("application/x-yaml", YAML),
        ("application/x-pickle", EXPLOIT),
    ],
)
@pytest.mark.parametrize("encoded", [False, True])
def test_a_message_of_another_serializer_is_not_loaded(content_type: str, body: bytes, *, encoded: bool) -> None:
    app = Celery(set_as_current=False)
    undo = accept("proj.upper")
    headers: dict[str, Any] = {**header("w", 7), "id": "mr-7-1-aa", "task": "proj.upper"}
    if encoded:
        headers["compression"], body = encoding_for("proj.upper"), zlib.compress(body)
    try:
        message = Message(
            body, content_type=content_type, content_encoding="binary", headers=headers, accept=app.conf.accept_content
        )
        with pytest.raises(ContentDisallowed):
            message.decode()
    finally:
        undo()


def test_a_job_widens_no_list_of_accepted_content(modelreins_run: Any) -> None:
    app = Celery("safe", broker="redis://nowhere.invalid/0", set_as_current=False)

    @modelreins_job("text.upper")
    @app.task(shared=False, name="safe.upper")
    def upper(prompt: str) -> str:
        return prompt.upper()

    before = (app.conf.accept_content, app.conf.result_accept_content, app.conf.task_serializer)
    assert modelreins_run(upper, prompt="__import__('os')").result == "__IMPORT__('OS')"
    assert (app.conf.accept_content, app.conf.result_accept_content, app.conf.task_serializer) == before
    assert tuple(app.conf.accept_content) == ("json",)
