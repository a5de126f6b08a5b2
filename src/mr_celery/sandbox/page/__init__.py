"""The sandbox's web page: what a developer wants beside the editor. Rendered here, kept up to date by the browser."""

from __future__ import annotations

from .app import Page
from .logins import Logins

__all__ = ["Logins", "Page"]
