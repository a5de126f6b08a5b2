"""The previous version of mr-celery, as code that processes can run during the tests of upgrades.

Its code is in an archive beside this module, so the tests need neither the repository's history nor a download.
At a release, ``python tests/support/version_before.py COMMIT`` rebuilds the archive from the commit of the previous
release.
"""

from __future__ import annotations

import lzma
import subprocess
import sys
import tarfile
from pathlib import Path

ARCHIVE = Path(__file__).with_suffix(".tar.xz")


def install(folder: Path) -> Path:
    """Unpack the code of the previous version into a folder. Returns the entry for ``PYTHONPATH``."""
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(folder)
    return folder / "src"


def make(commit: str) -> None:
    """Write the archive from the code of a commit."""
    tar = subprocess.run(["git", "archive", commit, "src"], stdout=subprocess.PIPE, check=True)
    ARCHIVE.write_bytes(lzma.compress(tar.stdout, preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    make(sys.argv[1])
