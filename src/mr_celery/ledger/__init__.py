"""The ledger: the state of every claimed job, in Redis."""

from .fleet import Fleet, Node
from .ledger import Ledger
from .records import IN_FLIGHT, DeliveryKey, Holding, Inventory, Missed, Record, Route, RunKey, Started, Survey

__all__ = [
    "IN_FLIGHT",
    "DeliveryKey",
    "Fleet",
    "Holding",
    "Inventory",
    "Ledger",
    "Missed",
    "Node",
    "Record",
    "Route",
    "RunKey",
    "Started",
    "Survey",
]
