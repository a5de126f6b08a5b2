"""What operators see and do: how the work stands, one job's story, what they decide, and the registration."""

from .control import drain, fail, pause, requeue
from .registration import Comparison, Declared, compare, declared_by, note_registered, register
from .status import Status, look

__all__ = [
    "Comparison",
    "Declared",
    "Status",
    "compare",
    "declared_by",
    "drain",
    "fail",
    "look",
    "note_registered",
    "pause",
    "register",
    "requeue",
]
