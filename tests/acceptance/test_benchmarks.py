"""The benchmarks still run. How fast anything is, is not looked at here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_parts_of_the_benchmarks_run_with_tiny_numbers(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "run.py"), "pickup", "idle", "--scale", "0.01", "--to", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "results.json").read_text())["figures"]
    assert {each["part"] for each in figures} == {"Pickup", "Idle"}
    assert all(each["values"] for each in figures)
    table = (tmp_path / "results.md").read_text()
    assert all(f"| {each['name']} |" in table for each in figures)


def test_an_unknown_part_is_named(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "run.py"), "idle", "luck", "--to", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "there is no part luck" in done.stderr
