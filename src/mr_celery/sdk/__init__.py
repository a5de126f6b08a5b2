"""The drop-in replacement of the official SDK's Worker."""

from .worker import Worker

__all__ = ["Worker"]
