"""The common parts of the project's web pages: the appearance, the live script, and the protection of sessions.

The sandbox's page and the bridge's page use it. It needs Jinja and Starlette, which the extras ``sandbox`` and ``web``
install.
"""

from __future__ import annotations

from .brake import Brake
from .guard import Guard
from .login import LoginRoutes
from .rendering import HEADERS, Templates
from .sessions import Sessions
from .static_files import Files

__all__ = ["HEADERS", "Brake", "Files", "Guard", "LoginRoutes", "Sessions", "Templates"]
