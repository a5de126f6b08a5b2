"""The bridge's page for operators. It is read-only, and served only if a token for it is set."""

from __future__ import annotations

from .app import Page

__all__ = ["Page"]
