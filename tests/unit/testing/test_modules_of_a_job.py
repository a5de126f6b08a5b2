"""The number of modules that one job passes through."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from celery import Celery

import mr_celery
from mr_celery import modelreins_job

MOST = 33
"""The modules of mr_celery that one text job may enter, without its test kit and its sandbox.

Each is one idea of a job's path: 7 of the bridge, 3 of the worker, 2 each of handlers and of delivery, 5 of the ledger,
3 of the server's client, the message, the job, its outcome, the clients of a process, log lines and traces. The others:

- ``settings/settings.py``, ``celery_compat.py``, ``telemetry/tracebacks.py``: the test kit sets up for each run what a
  process sets up once;
- ``telemetry/outages.py``: a bridge notes that the broker works;
- ``telemetry/printing.py``: texts for the record are made printable.
"""

PACKAGE = Path(mr_celery.__file__).parent
OF_THE_TEST = ("testing/", "sandbox/")
OF_OTHER_TESTS = frozenset(
    {
        "celery_worker/signals.py",
        "celery_worker/worker_jobs.py",
        "databases.py",
        "ledger/token_refusals.py",
        "telemetry/json_format.py",
        "telemetry/own_loggers.py",
        "telemetry/quantities.py",
    }
)
"""Entered only if another test of the process has connected signals, imported Django, or enabled other log lines.

Token refusals are read again after 0.25 s, which only a busy machine needs for a job.
"""


@contextmanager
def entered() -> Iterator[Counter[str]]:
    """Count the calls of each module of mr_celery in the block, in all threads that it starts."""
    calls: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and not frame.f_code.co_name.startswith("<") and path.is_relative_to(PACKAGE):
            calls[path.relative_to(PACKAGE).as_posix()] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    threading.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(before)
        threading.setprofile(None)


def test_a_job_enters_few_modules(modelreins_run: Any) -> None:
    app = Celery("few", broker="memory://", set_as_current=False)

    @modelreins_job
    @app.task(name="few.upper")
    def upper(prompt: str) -> str:
        return prompt.upper()

    modelreins_run(upper, prompt="the first one sets up")
    with entered() as calls:
        job = modelreins_run(upper, prompt="hello")
    assert job.result == "HELLO"
    modules = sorted(module for module in calls.keys() - OF_OTHER_TESTS if not module.startswith(OF_THE_TEST))
    listed = "\n".join(f"{calls[module]:6} {module}" for module in modules)
    assert len(modules) <= MOST, f"{len(modules)} modules, with the calls of each:\n{listed}"
