"""The spool: shared storage for artifacts that are too large for the ledger, until they are delivered."""

from .base import Entry, Spool, SpoolFull, SpoolUnavailable
from .factory import spool_of
from .names import SpoolName

__all__ = ["Entry", "Spool", "SpoolFull", "SpoolName", "SpoolUnavailable", "spool_of"]
