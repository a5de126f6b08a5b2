"""The same application as ``proj_traced``, as the bridge runs it: set up when it is imported."""

from __future__ import annotations

from .proj_traced import app, set_up_tracing

__all__ = ["app"]

set_up_tracing()
