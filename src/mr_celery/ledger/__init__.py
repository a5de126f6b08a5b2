"""The ledger: the state of every claimed job, in Redis."""

from .fleet import Fleet, Node
from .ledger import Ledger
from .records import IN_FLIGHT, Missed, Record, Route, RunKey, Started, Survey

__all__ = ["IN_FLIGHT", "Fleet", "Ledger", "Missed", "Node", "Record", "Route", "RunKey", "Started", "Survey"]
