"""A local ModelReins server for development, demos and tests. The bridge connects to it over HTTP only."""

from __future__ import annotations

from ..errors import MrCeleryError

_EXTRA = ("starlette", "uvicorn", "python_multipart", "jinja2", "markdown_it")

try:
    from .app import create_app
    from .chaos import Chaos, Rule
    from .options import ServerOptions, parse_words
    from .server import Sandbox, run
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in _EXTRA:
        raise
    raise MrCeleryError('the `sandbox` extra is missing: pip install "mr-celery[sandbox]"') from error

__all__ = ["Chaos", "Rule", "Sandbox", "ServerOptions", "create_app", "parse_words", "run"]
