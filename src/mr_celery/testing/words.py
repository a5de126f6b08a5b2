"""What the bridge and the worker of a test have logged, for the message when something does not happen."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class _Words(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(self.format(record))


@contextmanager
def listening() -> Iterator[Sequence[str]]:
    """Collect what mr-celery logs while the block lasts, one text for each line of the log."""
    logger, words = logging.getLogger("mr_celery"), _Words()
    words.setFormatter(logging.Formatter("%(levelname)-7s %(message)s"))
    level = logger.level
    logger.addHandler(words)
    logger.setLevel(logging.INFO)
    try:
        yield words.said
    finally:
        logger.removeHandler(words)
        logger.setLevel(level)
