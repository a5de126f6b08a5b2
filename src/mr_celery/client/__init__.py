"""The client of the ModelReins server."""

from .api import Api
from .http import Transport
from .worker import Worker

__all__ = ["Api", "Transport", "Worker"]
