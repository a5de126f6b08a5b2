"""Serves an ASGI application over HTTP, with limits on the resources that its clients may use.

The bridge's pages and the sandbox use it. It needs uvicorn, which the extras ``metrics`` and ``sandbox`` install.
"""

from __future__ import annotations

from .limits import Limits
from .server import BackgroundServer, Server, listen

__all__ = ["BackgroundServer", "Limits", "Server", "listen"]
