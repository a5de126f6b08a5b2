"""The pytest plug-in of mr-celery: its fixtures, which are explained in docs/testing.md.

pytest imports this in every session of everybody who has mr-celery installed. So it is a module apart, which imports
nothing of mr-celery, and with it of Celery, before a test asks for a fixture; it adds no options and no hooks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mr_celery.sandbox import Sandbox
    from mr_celery.testing import JobRun, LocalBridge, LocalServer


@pytest.fixture
def modelreins_app() -> Any:
    """The Celery application under test; ``None``: that of the task, or else the current one. Override it."""
    return None


@pytest.fixture
def modelreins_ledger_url() -> str | None:
    """The Redis in which ``modelreins_bridge`` has its ledger; ``None``: one inside of the process. Override it."""
    return None


@pytest.fixture(scope="session")
def _modelreins_server() -> Iterator[Sandbox]:
    """The server of ``modelreins_run``: one for the session, since each job is looked at by itself."""
    _need_extra()
    from mr_celery.sandbox import Sandbox

    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def modelreins_run(
    _modelreins_server: Sandbox, modelreins_app: Any, request: pytest.FixtureRequest, tmp_path: Any
) -> JobRun:
    """Runs one job through a decorated task, the whole way, in this process: ``modelreins_run(task, prompt="…")``."""
    from mr_celery.testing import JobRun

    def tell(text: str) -> None:
        request.node.add_report_section("call", "ModelReins jobs", f"{text}\n")

    return JobRun(_modelreins_server, modelreins_app, tell, str(tmp_path / "modelreins-spool"))


@pytest.fixture
def modelreins_sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalServer]:
    """A running ModelReins server on a free port. ``MODELREINS_URL``, ``_TOKEN`` and ``_NAME`` are set for it."""
    _need_extra()
    from mr_celery.sandbox import Sandbox
    from mr_celery.testing import LocalServer
    from mr_celery.testing.words import listening

    with Sandbox() as sandbox, listening() as said:
        server = LocalServer(sandbox, said)
        monkeypatch.setenv("MODELREINS_URL", server.url)
        monkeypatch.setenv("MODELREINS_TOKEN", server.token)
        monkeypatch.setenv("MODELREINS_NAME", server.worker)
        yield server


@pytest.fixture
def modelreins_bridge(
    modelreins_sandbox: LocalServer,
    modelreins_app: Any,
    modelreins_ledger_url: str | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
) -> Iterator[LocalBridge]:
    """A real bridge, and a real worker, for the application under test, against ``modelreins_sandbox``."""
    from mr_celery import MrCeleryError
    from mr_celery.testing.application import application
    from mr_celery.testing.bridge import at_work

    app = application(modelreins_app)
    folder = str(tmp_path / "modelreins-spool")
    try:
        with at_work(app, modelreins_sandbox, monkeypatch, ledger_url=modelreins_ledger_url, folder=folder) as bridge:
            yield bridge
    except MrCeleryError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


def _need_extra() -> None:
    """Fail in one line where the extra is not installed."""
    from mr_celery import MrCeleryError

    try:
        import mr_celery.testing  # noqa: F401
    except MrCeleryError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
