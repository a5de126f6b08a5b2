"""JSON logging: one object per line if the setting ``log_format`` is ``json``."""

from __future__ import annotations

import json
import logging
import math
from functools import partial
from typing import Any

from celery.utils.log import ColorFormatter, get_multiprocessing_logger
from pythonjsonlogger.json import JsonFormatter

from ..errors import SettingsError
from ..settings import load


class JsonLines(JsonFormatter):
    """Formats a record as one line of JSON.

    The keys are ``timestamp``, ``level``, ``logger``, ``message``, ``exception`` and the record's extra fields. Values
    without a JSON form are written as strings. Celery's field ``data`` is reduced to the task's id and name, because
    it contains arguments and results.
    """

    def __init__(self) -> None:
        super().__init__(
            ["levelname", "name", "message"],
            timestamp=True,
            rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception", "stack_info": "stack"},
            json_serializer=partial(json.dumps, allow_nan=False),
        )

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Add the fields of a record."""
        super().add_fields(log_data, record, message_dict)
        if record.name.startswith("celery.") and isinstance(data := log_data.pop("data", None), dict):
            log_data.setdefault("task_id", data.get("id"))
            log_data.setdefault("task_name", data.get("name"))

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        """Serialize the fields."""
        try:
            return super().jsonify_log_record(log_data)
        except (TypeError, ValueError, RecursionError):
            return super().jsonify_log_record({str(key): _plain(value) for key, value in log_data.items()})


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    try:
        return str(value)
    except Exception as error:
        return f"<{type(value).__name__}: str() raised {type(error).__name__}>"


def write_json() -> None:
    """Switch the logging handlers that Celery installed to JSON. Other handlers are not changed."""
    for logger in (logging.getLogger(), logging.getLogger("celery.task"), get_multiprocessing_logger()):
        for handler in logger.handlers if logger else ():
            if isinstance(handler.formatter, ColorFormatter):
                handler.setFormatter(JsonLines())


def json_wanted(configuration: Any) -> bool:
    """Whether the application's settings ask for JSON. Invalid settings are reported elsewhere."""
    try:
        return load(configuration).log_format == "json"
    except SettingsError:
        return False
