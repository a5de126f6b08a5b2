"""The ModelReins server as a worker sees it: the transport, the requests, and the SDK's worker object."""

from .api import Api
from .http import Transport
from .worker import Worker

__all__ = ["Api", "Transport", "Worker"]
