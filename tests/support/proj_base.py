"""Shared by the tests' Celery applications: each handler records its start in a file."""

from __future__ import annotations

import json
import os
import time

from celery import Celery


def new_app(name: str = "proj") -> Celery:
    """An application with the broker of ``PROJ_BROKER`` and the configuration of ``PROJ_CONF``, as JSON."""
    app = Celery(name, broker=os.environ["PROJ_BROKER"])
    app.conf.update(broker_connection_retry_on_startup=True, worker_hijack_root_logger=True)
    app.conf.update(json.loads(os.environ.get("PROJ_CONF", "{}")))
    return app


def note(text: str) -> None:
    """Append a line to the file ``PROJ_RUNS``."""
    with open(os.environ["PROJ_RUNS"], "a") as file:
        file.write(text + "\n")


def upper_of(prompt: str) -> str:
    """A handler: record the prompt, and return it in capitals."""
    note(prompt)
    return prompt.upper()


def wait_for_gate() -> None:
    """Wait until a test creates the file ``PROJ_GATE``."""
    while not os.path.exists(os.environ["PROJ_GATE"]):
        time.sleep(0.05)
