"""The ModelReins server as a worker sees it: the transport, the requests, and the SDK's worker object."""

from .admin import REGISTER, register, registration
from .api import TERMINAL, Api, Listing
from .http import Transport
from .whereabouts import status_of
from .worker import Worker

__all__ = [
    "REGISTER",
    "TERMINAL",
    "Api",
    "Listing",
    "Transport",
    "Worker",
    "register",
    "registration",
    "status_of",
]
