"""The examples' own tests, run in their folders as their page says, without this project's plugins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
TESTED = sorted({path.parent.relative_to(EXAMPLES) for path in EXAMPLES.rglob("test_*.py")})


@pytest.mark.parametrize("folder", TESTED, ids=str)
def test_tests_of_the_example_pass(folder: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:timeout"]
    ended = subprocess.run(command, cwd=EXAMPLES / folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_examples_have_tests() -> None:
    assert {Path("artifacts"), Path("existing_tasks"), Path("image_worker")} <= set(TESTED)
