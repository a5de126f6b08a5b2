"""The version before this one, as code that processes can run: what fleets run while they are upgraded to this one."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

COMMIT = "0c3cc5182da6f91aa573837f576bd090a407fdda"
"""The version before. At a release, its commit becomes the version before the next one."""

ROOT = Path(__file__).parents[2]


def install(folder: Path) -> Path:
    """Put the code of the version before into a folder. Returns the entry for ``PYTHONPATH``.

    Raises:
        AssertionError: the repository does not have the commit.
    """
    # A container may run the tests as another user than the owner of the files.
    command = ["git", "-c", "safe.directory=*", "-C", str(ROOT), "archive", COMMIT, "src"]
    archive = subprocess.run(command, capture_output=True, check=False)
    assert archive.returncode == 0, (
        f"the version before ({COMMIT}) is not in this repository: {archive.stderr.decode().strip()}. "
        "The test needs the whole history: git fetch --unshallow"
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder)
    return folder / "src"
