"""An application that sets up logging in a way that hides lines. ``PROJ_LOGGING`` selects the way."""

from __future__ import annotations

import logging.config
import os
from collections.abc import Callable
from typing import Any

from celery import signals

KIND = os.environ["PROJ_LOGGING"]
CONSOLE = {"class": "logging.StreamHandler", "formatter": "line"}
FORMATTERS = {"line": {"format": "{asctime} {levelname} {name} {message}", "style": "{"}}


def configure(
    root: dict[str, Any] | None = None, handler: dict[str, Any] | None = None, **further: Any
) -> Callable[..., None]:
    """A function that sets up logging, and disables all existing loggers."""
    config = {
        "version": 1,
        "disable_existing_loggers": True,
        "formatters": FORMATTERS,
        "handlers": {"console": {**CONSOLE, **(handler or {})}},
        "root": {"level": "INFO", "handlers": ["console"], **(root or {})},
        **further,
    }

    def apply(**_: Any) -> None:
        logging.config.dictConfig(config)

    return apply


disabling = configure()
json_lines = configure(
    formatters={
        "line": {"()": "pythonjsonlogger.json.JsonFormatter", "fmt": "%(levelname)s %(name)s %(message)s"},
    }
)
errors_only = configure({"level": "ERROR"})

if KIND == "before the import":
    errors_only()

from mr_celery import JobFailed, modelreins_job  # noqa: E402 - after the set-up

from .proj_base import new_app  # noqa: E402

app = new_app()

match KIND:
    case "after the import":
        disabling()
    case "setup_logging":
        signals.setup_logging.connect(disabling, weak=False)
    case "setup_logging, JSON":
        signals.setup_logging.connect(json_lines, weak=False)
    case "setup_logging, root at ERROR":
        signals.setup_logging.connect(errors_only, weak=False)
    case "setup_logging, handler at ERROR":
        signals.setup_logging.connect(configure(handler={"level": "CRITICAL"}), weak=False)
    case "setup_logging, no handler":
        signals.setup_logging.connect(configure({"handlers": []}), weak=False)
    case "setup_logging, handler that writes nothing":
        signals.setup_logging.connect(configure(handlers={"console": {"class": "logging.NullHandler"}}), weak=False)
    case "setup_logging, a handler that filters":
        filters = {"none": {"()": lambda: lambda record: record.name.startswith("proj")}}
        signals.setup_logging.connect(configure(handler={"filters": ["none"]}, filters=filters), weak=False)
    case "after_setup_logger":
        signals.after_setup_logger.connect(errors_only, weak=False)
    case "root not hijacked":
        app.conf.worker_hijack_root_logger = False
        errors_only()


def late_set_up() -> None:
    """Set up logging late, as some libraries do when they are first used."""
    if KIND == "in a task and in match=":
        configure({"level": "CRITICAL"}, disable_existing_loggers=True)()


def other(job: object) -> bool:
    late_set_up()
    return False


@modelreins_job("meant")
@app.task
def meant(prompt: str) -> None:
    late_set_up()
    raise JobFailed(prompt)


@modelreins_job("limit")
@app.task(time_limit=1)
def limit(prompt: str) -> None:
    while True:
        pass


@modelreins_job(match=other)
@app.task
def never(prompt: str) -> str:
    return prompt
