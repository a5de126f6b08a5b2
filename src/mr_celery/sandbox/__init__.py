"""A local ModelReins server, for development, demos and tests. It meets the bridge over HTTP only."""

from __future__ import annotations

from ..errors import MrCeleryError

try:
    from .app import create_app
    from .chaos import Chaos, Rule
    from .server import Sandbox, run
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn", "python_multipart"):
        raise
    raise MrCeleryError('the `sandbox` extra is missing: pip install "mr-celery[sandbox]"') from error

__all__ = ["Chaos", "Rule", "Sandbox", "create_app", "run"]
