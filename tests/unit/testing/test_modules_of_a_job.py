"""The number of modules that a reader enters to follow one job."""

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

MOST = 48
"""The modules of mr_celery that one text job may enter, without its test kit and its sandbox.

Each is one idea of a job's path: 7 of the bridge, 4 of the worker, 2 each of handlers, delivery and ``telemetry/`` for
log lines, 4 of the ledger, 5 of the server's client, the message, the job and its secrets, its outcome, settings and
clients. Two of the worker take part only if its signals are connected. Others are entered although there is little for
them to do:

- ``server/answers.py`` and ``telemetry/printing.py``: an answer is bounded, and its words are made printable;
- ``telemetry/tracebacks.py`` and ``backoff.py``: a worker enters them at set-up, and this test for each job;
- ``telemetry/tracing.py``: an application may set up its OpenTelemetry SDK at any time, so each span asks for it;
- ``telemetry/outages.py``: it also needs to know of successes;
- ``bridge/waiting.py``: each poll replaces the reasons why jobs wait, also by none;
- ``token_refusals.py`` and ``ledger/coordination.py``: all processes share whether the server refuses the token;
- ``databases.py``: broken connections of Django are closed after each step;
- ``socket_timeouts.py``: the kernel watches over the time-out of each connection to the server;
- ``celery_compat.py``: the private names of Celery that routing and wrapping a task need.
"""

PACKAGE = Path(mr_celery.__file__).parent
OF_THE_TEST = ("testing/", "sandbox/")


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
    modules = sorted(module for module in calls if not module.startswith(OF_THE_TEST))
    listed = "\n".join(f"{calls[module]:6} {module}" for module in modules)
    assert len(modules) <= MOST, f"{len(modules)} modules, with the calls of each:\n{listed}"
