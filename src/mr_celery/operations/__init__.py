"""Operations for people who run a fleet: status, jobs, control, check, audit, registration and metrics."""

from ..bridge.waiting import waiting_jobs
from .control import drain, fail, pause, requeue
from .registration import Comparison, Declared, compare, declared_by, note_registered, register
from .status import Status, Subject, read_statuses, status_reader

__all__ = [
    "Comparison",
    "Declared",
    "Status",
    "Subject",
    "compare",
    "declared_by",
    "drain",
    "fail",
    "note_registered",
    "pause",
    "read_statuses",
    "register",
    "requeue",
    "status_reader",
    "waiting_jobs",
]
