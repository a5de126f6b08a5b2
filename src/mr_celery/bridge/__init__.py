"""The bridge: claims jobs, sends them as tasks, and sees each of them to its end."""

from .bridge import Bridge

__all__ = ["Bridge"]
