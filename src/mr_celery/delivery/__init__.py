"""Delivery: what a handler returned becomes an outcome, and the outcome reaches the server."""

from .away import Away
from .deliver import HOLD_SECONDS, Consignment, Delivery
from .parcel import Parcel, pack

__all__ = ["HOLD_SECONDS", "Away", "Consignment", "Delivery", "Parcel", "pack"]
