"""The examples' own tests, each folder in a session like a user's: without this project's configuration."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
TESTED = sorted({path.parent.relative_to(EXAMPLES) for path in EXAMPLES.rglob("test_*.py")})


@pytest.mark.parametrize("folder", TESTED, ids=str)
def test_the_examples_tests(folder: Path, tmp_path: Path) -> None:
    plain = tmp_path / "pytest.ini"
    plain.write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", plain]
    ended = subprocess.run(
        [*command, "--rootdir", EXAMPLES / folder, EXAMPLES / folder], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_there_are_tests() -> None:
    assert {Path("artifacts"), Path("existing_tasks"), Path("image_worker")} <= set(TESTED)
