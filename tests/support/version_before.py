"""The version before this one, as code that processes can run: what fleets run while they are upgraded to this one.

Its code is in an archive beside this module, so the tests need no history of the repository, and nothing is downloaded.
At a release, ``python tests/support/version_before.py COMMIT`` makes the archive anew, from the commit of the release
before.
"""

from __future__ import annotations

import lzma
import subprocess
import sys
import tarfile
from pathlib import Path

ARCHIVE = Path(__file__).with_suffix(".tar.xz")


def install(folder: Path) -> Path:
    """Put the code of the version before into a folder. Returns the entry for ``PYTHONPATH``."""
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(folder)
    return folder / "src"


def make(commit: str) -> None:
    """Write the archive with the code of a commit."""
    tar = subprocess.run(["git", "archive", commit, "src"], stdout=subprocess.PIPE, check=True)
    ARCHIVE.write_bytes(lzma.compress(tar.stdout, preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    make(sys.argv[1])
