"""The command line: ``celery -A proj modelreins …``, and ``mr-celery`` for what needs no Celery command.

Celery loads this on each of its commands, so everything heavy is imported inside the functions.
"""

from .main import main
from .modelreins import modelreins

__all__ = ["main", "modelreins"]
