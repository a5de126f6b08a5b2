"""The spool: where what is too large for the ledger waits for its delivery."""

from .names import SpoolName
from .spool import Entry, Spool, SpoolFull, SpoolUnavailable, spool_of

__all__ = ["Entry", "Spool", "SpoolFull", "SpoolName", "SpoolUnavailable", "spool_of"]
