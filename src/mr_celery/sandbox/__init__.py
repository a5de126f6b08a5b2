"""A local ModelReins server, for development, demos and tests. It meets the bridge over HTTP only."""

from ..errors import MrCeleryError

try:
    from .server import Sandbox, run
except ModuleNotFoundError as error:
    raise MrCeleryError(
        f'the sandbox needs {error.name}, which is not installed: pip install "mr-celery[sandbox]"'
    ) from error

__all__ = ["Sandbox", "run"]
