"""The benchmarks still run. Their results are not checked here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.campaign import FULL

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

QUICK = ("idle", "uploads", "growth")
"""Parts that take little time, with each of the applications; with ``MR_CELERY_FULL`` all of them run."""


def run(*arguments: str, to: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "run.py"), *arguments, "--to", str(to)]
    return subprocess.run(command, capture_output=True, text=True, timeout=550)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_parts_run_with_tiny_numbers(tmp_path: Path) -> None:
    parts = () if FULL else QUICK
    done = run(*parts, "--scale", "0.001", "--rounds", "1", to=tmp_path)
    assert done.returncode == 0, done.stderr
    stats = json.loads((tmp_path / "results.json").read_text())["stats"]
    assert {"Idle", "Uploads"} <= {each["part"] for each in stats}
    assert all(each["values"] for each in stats)
    table = (tmp_path / "results.md").read_text()
    assert all(f"| {each['name']} |" in table for each in stats)


def test_a_part_that_does_not_exist_is_named(tmp_path: Path) -> None:
    done = run("idle", "luck", to=tmp_path)
    assert done.returncode == 2
    assert "there is no part luck" in done.stderr
