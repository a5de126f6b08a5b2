"""Celery add-ons that wrap tasks: their jobs end once, without an error in the logs."""

from __future__ import annotations

import sqlite3
import subprocess
import sys

import pytest

from support.fleet import Fleet
from support.servers import RedisServer

ADDONS = [
    "celery-once",
    "celery-once keys",
    "celery-once unlock_before_run",
    "celery-singleton",
    "celery-singleton unique_on",
    "django-celery-results",
    "sentry-sdk",
    "opentelemetry",
]

PROMPT = "marked-prompt-4c1d"


@pytest.fixture
def fleet_with(fleet: Fleet, redis_server: RedisServer) -> Fleet:
    fleet.app = "support.proj_addons"
    fleet.environment |= {"PROJ_REDIS": redis_server.url(3), "PROJ_DATABASE": str(fleet.folder / "db.sqlite3")}
    return fleet


@pytest.mark.parametrize("pool", ["prefork", "threads"])
@pytest.mark.parametrize("addon", ADDONS)
def test_jobs_end_once_and_without_an_error(
    fleet_with: Fleet, redis_server: RedisServer, addon: str, pool: str
) -> None:
    fleet = fleet_with
    fleet.environment["PROJ_ADDON"] = addon
    if addon.startswith("django"):
        subprocess.run(
            [sys.executable, "-c", "import support.proj_addons", "migrate"], env=fleet.environment, check=True
        )
    worker, bridge = fleet.worker("-P", pool, "-c", "2"), fleet.bridge()
    # Jobs of the same task with the same prompt do not count as duplicates.
    ids = [fleet.dispatch(PROMPT, kind) for kind in ("upper", "shared", "bound") for _ in range(3)]
    failing = fleet.dispatch(PROMPT, "meant")
    jobs = fleet.ended(*ids, failing)
    assert [(job["status"], job["result"]) for job in jobs[:-1]] == [("done", PROMPT.upper())] * 9
    assert jobs[-1]["status"] == "failed"
    assert fleet.started(PROMPT) == 13  # those that retry start twice
    # Retries are locked by the handler's arguments, like plain calls.
    assert redis_server.client(3).keys("*") == []
    for process in (worker, bridge):
        process.terminate()
        assert "ERROR" not in process.output, process.output
        assert "Traceback" not in process.output, process.output
        assert PROMPT not in process.output
    if addon == "django-celery-results":
        with sqlite3.connect(fleet.environment["PROJ_DATABASE"]) as database:
            stored = database.execute("SELECT * FROM django_celery_results_taskresult").fetchall()
        assert stored == []  # jobs ignore their results, since nothing waits for them
