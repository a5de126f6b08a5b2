"""The sandbox's web page for developers. It is rendered on the server and kept up to date by a script."""

from __future__ import annotations

from .app import Page
from .logins import Logins

__all__ = ["Logins", "Page"]
