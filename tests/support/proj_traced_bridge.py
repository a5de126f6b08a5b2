"""The application ``proj_traced`` for the bridge, with tracing set up on import."""

from __future__ import annotations

from .proj_traced import app, set_up_tracing

__all__ = ["app"]

set_up_tracing()
