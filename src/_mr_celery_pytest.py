"""The pytest plugin of mr-celery. docs/testing.md explains its fixtures.

pytest imports this module in every session if mr-celery is installed. It is therefore a separate module, which imports
mr-celery and Celery only if a test uses a fixture, and it adds no options and no hooks.
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
    """The Celery application under test. Override it, or else that of the task or the current one is used."""
    return None


@pytest.fixture
def modelreins_ledger_url() -> str | None:
    """The URL of the Redis for the ledger of ``modelreins_bridge``. Override it, or else the ledger is in memory."""
    return None


@pytest.fixture(scope="session")
def _modelreins_server() -> Iterator[Sandbox]:
    """The server of ``modelreins_run``. One serves the whole session, because tests see only their own jobs."""
    _require_extra()
    from mr_celery.sandbox import Sandbox

    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def modelreins_run(
    _modelreins_server: Sandbox, modelreins_app: Any, request: pytest.FixtureRequest, tmp_path: Any
) -> Iterator[JobRun]:
    """Runs one job through a decorated task from claim to close: ``modelreins_run(task, prompt="…")``."""
    from contextlib import ExitStack

    from mr_celery.testing import JobRun

    def report(text: str) -> None:
        request.node.add_report_section("call", "ModelReins jobs", f"{text}\n")

    with ExitStack() as stack:
        yield JobRun(_modelreins_server, modelreins_app, report, str(tmp_path / "modelreins-spool"), stack)


@pytest.fixture
def modelreins_sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalServer]:
    """A running ModelReins server on a free port. Sets ``MODELREINS_URL``, ``_TOKEN`` and ``_NAME`` accordingly."""
    _require_extra()
    from mr_celery.sandbox import Sandbox
    from mr_celery.testing import LocalServer
    from mr_celery.testing.log_capture import capture_log

    with Sandbox() as sandbox, capture_log() as log_lines:
        server = LocalServer(sandbox, log_lines)
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
    """A real bridge and a real worker for the application under test, connected to ``modelreins_sandbox``."""
    from mr_celery import MrCeleryError
    from mr_celery.testing.application import application
    from mr_celery.testing.bridge import running_bridge

    app = application(modelreins_app)
    folder = str(tmp_path / "modelreins-spool")
    try:
        with running_bridge(
            app, modelreins_sandbox, monkeypatch, ledger_url=modelreins_ledger_url, folder=folder
        ) as bridge:
            yield bridge
    except MrCeleryError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


def _require_extra() -> None:
    """Fail with one line if the extra ``pytest`` is not installed."""
    from mr_celery import MrCeleryError

    try:
        import mr_celery.testing  # noqa: F401
    except MrCeleryError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
