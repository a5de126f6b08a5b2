"""The command line: ``celery -A proj modelreins …`` and ``mr-celery``.

Celery imports this package for each of its commands, so functions import heavy modules themselves.
"""

from .check import check
from .complete import complete
from .control import drain, fail, pause, requeue, resume
from .dispatch import dispatch
from .jobs import jobs
from .modelreins import modelreins
from .register import register
from .status import status

for _command in (check, status, dispatch, jobs, requeue, fail, complete, pause, resume, drain, register):
    modelreins.add_command(_command)

from .main import main  # noqa: E402 - imported last: it copies the commands of `modelreins`

__all__ = ["main", "modelreins"]
