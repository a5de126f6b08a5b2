"""The token is replaced while bridge and workers run, in a file that they reread."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import requests

from mr_celery.ledger import Ledger
from support import fork_server
from support.fleet import BIN, Fleet
from support.ports import until


def new_token(fleet: Fleet) -> str:
    """Register the worker name, and open the link to its token. The server then refuses the previous token."""
    done = fork_server.run(
        [str(BIN / "celery"), "-A", fleet.app, "modelreins", "register", "--again"],
        env={**fleet.environment, "MODELREINS_ADMIN_TOKEN": fleet.sandbox.token},
        timeout=90,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "expires after a few minutes" in done.stdout
    assert f"Write the token to {fleet.environment['MODELREINS_TOKEN_FILE']}" in done.stdout
    link = re.search(r"^http\S+/view/\S+$", done.stdout, re.MULTILINE)
    assert link
    shown = re.search(r"MODELREINS_TOKEN=(\S+)</pre>", requests.get(link[0], timeout=30).text)
    assert shown
    return shown[1]


def replace(file: Path, token: str) -> None:
    """Replace the file as a whole."""
    new = file.with_suffix(".new")
    new.write_text(f"{token}\n")
    os.replace(new, file)


@pytest.fixture
def rotated(fleet: Fleet, tmp_path: Path) -> Path:
    """The token file of an installation, which is its processes' only source of the token."""
    del fleet.environment["MODELREINS_TOKEN"]
    file = tmp_path / "token"
    fleet.environment |= {"MODELREINS_TOKEN_FILE": str(file), "MODELREINS_HEARTBEAT_INTERVAL": "1"}
    replace(file, new_token(fleet))
    return file


@pytest.mark.timeout(240)
def test_a_new_token_needs_no_restart(fleet: Fleet, rotated: Path) -> None:
    gate = rotated.with_name("gate")
    fleet.environment["PROJ_GATE"] = str(gate)
    bridge, worker = fleet.bridge(), fleet.worker("-c", "2")
    (before,) = fleet.ended(fleet.dispatch("before", "sleep", seconds=0))
    assert before["status"] == "done"
    slow = fleet.dispatch("meanwhile", "gated")
    until(lambda: fleet.job(slow)["status"] == "running", what="it is claimed")
    until(lambda: fleet.started("meanwhile") == 1, what="it runs")

    token = new_token(fleet)
    gate.touch()
    bridge.says("the server refuses the token")
    waiting = fleet.dispatch("waits for the new token", "sleep", seconds=0)
    ledger = Ledger(fleet.environment["MODELREINS_LEDGER_URL"], fleet.name)
    until(lambda: ledger.survey().states["finished"] == 1, seconds=60, what="an outcome waits in the ledger")
    assert fleet.job(waiting)["status"] == "pending"

    replace(rotated, token)
    for job in fleet.ended(slow, waiting):
        assert job["status"] == "done"
    bridge.says(f"the token in {rotated} has changed, and is used from now on")
    (after,) = fleet.ended(fleet.dispatch("after", "sleep", seconds=0))
    assert after["status"] == "done"
    for process in (bridge, worker):
        assert process.popen.poll() is None
        assert token not in process.output
