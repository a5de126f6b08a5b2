"""Delivery: what a handler returned becomes an outcome, and the outcome reaches the server."""

from .away import Away
from .consignment import Consignment
from .deliver import Delivery
from .hold import HOLD_SECONDS
from .parcel import Parcel, pack, pack_failure
from .stores import Stores
from .stow import Stow

__all__ = ["HOLD_SECONDS", "Away", "Consignment", "Delivery", "Parcel", "Stores", "Stow", "pack", "pack_failure"]
