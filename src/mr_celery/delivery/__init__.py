"""Packs a handler's return value as an outcome, and delivers outcomes to the server."""

from .deliver import DELIVERY_LEASE, USUAL_RATE, Delivery, DeliveryRequest
from .packing import PackedOutcome, pack, pack_attachments, pack_failure
from .staging import Staging

__all__ = [
    "DELIVERY_LEASE",
    "USUAL_RATE",
    "Delivery",
    "DeliveryRequest",
    "PackedOutcome",
    "Staging",
    "pack",
    "pack_attachments",
    "pack_failure",
]
