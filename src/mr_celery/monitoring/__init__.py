"""The bridge's face to monitoring: metrics and probes over HTTP."""

from .web import Web

__all__ = ["Web"]
