"""What a project's own tests use: ``modelreins_run``, ``modelreins_sandbox`` and ``modelreins_bridge``.

The fixtures are in ``_mr_celery_pytest``, which imports this only when a test asks for one of them. The names here are
for annotations::

    from mr_celery.testing import JobRun

    def test_generate(modelreins_run: JobRun) -> None: ...
"""

from __future__ import annotations

from ..errors import MrCeleryError

MISSING = 'the fixtures of mr-celery need the extra `pytest`: pip install "mr-celery[pytest]"'

try:
    import lupa  # noqa: F401 - fakeredis asks for it only once a script is run

    from ..sandbox import Rule
    from .bridge import LocalBridge
    from .jobs import RanJob, SeenArtifact, SeenJob, SeenReview
    from .run import JobRun
    from .server import LocalServer
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("fakeredis", "lupa"):
        raise
    raise MrCeleryError(MISSING) from error
except MrCeleryError as error:  # the sandbox lacks something
    raise MrCeleryError(MISSING) from error

__all__ = ["JobRun", "LocalBridge", "LocalServer", "RanJob", "Rule", "SeenArtifact", "SeenJob", "SeenReview"]
