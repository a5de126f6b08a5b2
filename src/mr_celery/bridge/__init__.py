"""The bridge: claims jobs, publishes them as tasks, and follows each one to its end."""

from .bridge import Bridge, bridges_of, run

__all__ = ["Bridge", "bridges_of", "run"]
