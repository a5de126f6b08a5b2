"""What operators see and do: how the work stands, one job's story, and the decisions that are theirs."""

from .control import drain, fail, pause, requeue
from .status import Status, look

__all__ = ["Status", "drain", "fail", "look", "pause", "requeue"]
