"""The ledger: the state of every claimed job, in Redis."""

from .figures import Figures, Histogram
from .fleet import Fleet, Node
from .ledger import ENDINGS, Ledger
from .records import (
    IN_FLIGHT,
    Admission,
    Aged,
    BridgeProcess,
    DeliveryKey,
    Holding,
    Inventory,
    Line,
    Missed,
    Pause,
    Record,
    Registration,
    Route,
    RunKey,
    Standing,
    Started,
    Survey,
)

__all__ = [
    "ENDINGS",
    "IN_FLIGHT",
    "Admission",
    "Aged",
    "BridgeProcess",
    "DeliveryKey",
    "Figures",
    "Fleet",
    "Histogram",
    "Holding",
    "Inventory",
    "Ledger",
    "Line",
    "Missed",
    "Node",
    "Pause",
    "Record",
    "Registration",
    "Route",
    "RunKey",
    "Standing",
    "Started",
    "Survey",
]
