"""A short soak test: everything is killed, frozen or made unreachable at random under load.

Assumption shared with the code: all handlers are plain functions that return or raise an ``Exception``; see
``test_endings.py``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from support.campaign import seed

SOAK = Path(__file__).parents[1] / "soak.py"

SECONDS = float(os.environ.get("MR_CELERY_SECONDS") or 25)
"""How long everything is disturbed."""

MARK = "MR_CELERY_SOAK"
"""An environment variable that tells the soak's processes from all others."""


def processes(mark: str) -> Iterator[psutil.Process]:
    """The processes that have this mark."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it has just ended, or belongs to another user
            if process.environ().get(MARK) == mark:
                yield process


@pytest.mark.long
def test_everything_is_disturbed_at_random(tmp_path: Path) -> None:
    mark = uuid4().hex
    command = [sys.executable, str(SOAK), "--minutes", str(SECONDS / 60), "--seed", str(seed())]
    environment = {**os.environ, MARK: mark, "TMPDIR": str(tmp_path)}
    soak = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        output, _ = soak.communicate()
    finally:
        soak.terminate()  # if the test is ended early
        soak.wait(60)
    print(output)
    assert soak.returncode == 0
    agree = r"^audit +ok +w: the ledger \(0 in flight\) and the server \(0 running, 0 pending\) agree$"
    assert re.search(agree, output, re.MULTILINE)
    assert list(processes(mark)) == []
