"""Support for a project's tests: ``modelreins_run``, ``modelreins_sandbox`` and ``modelreins_bridge``.

The fixtures are defined in ``_mr_celery_pytest``, which imports this package only if a test uses one of them. The names
exported here are for annotations::

    from mr_celery.testing import JobRun

    def test_generate(modelreins_run: JobRun) -> None: ...
"""

from __future__ import annotations

from ..errors import MrCeleryError

MISSING = 'the fixtures of mr-celery need the extra `pytest`: pip install "mr-celery[pytest]"'

try:
    import lupa  # noqa: F401 - fakeredis imports it only when a script runs

    from ..sandbox import Rule
    from .bridge import LocalBridge
    from .jobs import RanJob, SeenArtifact, SeenJob, SeenReview
    from .run import JobRun
    from .server import LocalServer
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("fakeredis", "lupa"):
        raise
    raise MrCeleryError(MISSING) from error
except MrCeleryError as error:  # raised by the sandbox if its extra is missing
    raise MrCeleryError(MISSING) from error

__all__ = ["JobRun", "LocalBridge", "LocalServer", "RanJob", "Rule", "SeenArtifact", "SeenJob", "SeenReview"]
