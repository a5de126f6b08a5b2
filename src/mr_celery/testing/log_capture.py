"""Captures the log of bridge and worker, to show it if a test fails."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class _ListHandler(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@contextmanager
def capture_log() -> Iterator[Sequence[str]]:
    """Capture the log of mr-celery inside the block. Yields a growing list of lines."""
    logger, handler = logging.getLogger("mr_celery"), _ListHandler()
    handler.setFormatter(logging.Formatter("%(levelname)-7s %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
