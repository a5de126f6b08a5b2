"""The bridge: claims jobs, sends them as tasks, and sees each of them to its end."""

from .bridge import Bridge
from .crew import bridges_of, run

__all__ = ["Bridge", "bridges_of", "run"]
