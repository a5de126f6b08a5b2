"""HTTP client of the ModelReins server: the transport, and one method for each request."""

from .api import Api
from .dispatching import Dispatcher
from .job_list import Listing, PartialList, Take, keep_nothing
from .job_lookup import listed_status, status_of
from .job_status import Phase, is_same_end, phase_of
from .registering import REGISTER, register, registration
from .transport import Transport

__all__ = [
    "REGISTER",
    "Api",
    "Dispatcher",
    "Listing",
    "PartialList",
    "Phase",
    "Take",
    "Transport",
    "is_same_end",
    "keep_nothing",
    "listed_status",
    "phase_of",
    "register",
    "registration",
    "status_of",
]
