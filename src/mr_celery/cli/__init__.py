"""The command line: ``celery -A proj modelreins …``, and ``mr-celery`` for what needs no Celery command.

Celery loads this on each of its commands, so everything heavy is imported inside the functions.
"""

from .control import drain, fail, pause, requeue, resume
from .jobs import jobs
from .modelreins import modelreins
from .register import register
from .status import status

for _command in (status, jobs, requeue, fail, pause, resume, drain, register):
    modelreins.add_command(_command)

from .main import main  # noqa: E402 - it takes over the commands of `modelreins`, so these come first

__all__ = ["main", "modelreins"]
