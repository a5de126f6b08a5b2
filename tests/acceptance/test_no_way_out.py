"""Workers without a token that can reach only broker and ledger: the bridge delivers everything."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mr_celery.sandbox import Sandbox
from support.fleet import Fleet
from support.servers import RedisServer

NO_NETWORK = ["unshare", "--map-root-user", "--net"]
"""Runs a command where there is no network at all; files, and so a Redis' socket, are there as ever."""

pytestmark = pytest.mark.skipif(not shutil.which("unshare"), reason="there is no unshare(1) here")


def test_workers_that_reach_nothing_but_the_broker_and_the_ledger(sandbox: Sandbox, tmp_path: Path) -> None:
    socket, files = tmp_path / "redis.sock", tmp_path / "files"
    files.mkdir()
    redis = RedisServer("--unixsocket", str(socket))
    fleet = Fleet(
        sandbox,
        broker=f"redis+socket://{socket}?virtual_host=0",
        ledger=f"unix://{socket}?db=1",
        folder=tmp_path,
        app="support.proj_artifacts",
    )
    fleet.environment |= {
        "MODELREINS_DELIVERY": "bridge",
        "MODELREINS_SPOOL_URL": str(tmp_path / "spool"),
        "PROJ_FILES": str(files),
    }
    try:
        fleet.bridge()
        fleet.worker(inside=NO_NETWORK, MODELREINS_TOKEN="", MODELREINS_URL="")
        probe, film, picture, log, long = (
            fleet.dispatch(sandbox.url, "reach"),
            fleet.dispatch("film", "film", size=3 * 2**20),
            fleet.dispatch("a lighthouse", "sdk-shape"),
            fleet.dispatch("build", "fails-with-log"),
            fleet.dispatch("write", "long", length=2**20),
        )
        results = [job["result"] for job in fleet.ended(probe, film, picture, log, long)]
        assert results[0] == "unreachable"
        assert results[1] == "filmed"
        slugs = {job_id: sandbox.store.artifacts(job_id)[0]["slug"] for job_id in (film, picture, log, long)}
        assert results[2] == f"Uploaded artifact {slugs[picture]}, queued for review"
        (review,) = sandbox.store.reviews()
        assert review["preview"] == f"{sandbox.url}/s/{slugs[picture]}"
        assert not [path for path in (tmp_path / "spool").rglob("*") if path.is_file()]
    finally:
        fleet.stop()
        redis.stop()
