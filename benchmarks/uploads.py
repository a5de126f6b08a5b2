"""Speed of uploading a large artifact, compared with ``curl``, and its memory use."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

from installation import TOKEN, Place, place, resident_bytes
from report import Report

PART = "Uploads"

MIB = 2**20

SIZE = 256 * MIB

LOOK_SECONDS = 0.01


def write(path: Path, size: int) -> None:
    """Create a file of random bytes."""
    block = os.urandom(MIB)
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(block)


def speed(at: Place) -> float:
    """MiB per second of the last upload, from its head to its last byte at the server."""
    size, seconds = at.server.uploads()[-1]
    return size / MIB / seconds


def by_curl(at: Place, file: Path) -> float:
    """Upload the file with curl, and return the speed."""
    command = ["curl", "--silent", "--fail", "--noproxy", "*", "--header", f"Authorization: Bearer {TOKEN}"]
    command += ["--form", f"file=@{file}", f"{at.server.url}/artifacts/upload"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return speed(at)


def by_a_job(at: Place, file: Path) -> float:
    """Upload the file as a job's artifact, and return the speed."""
    done = at.server.done()
    at.server.dispatch(1, capability="upload", prompt=str(file))
    at.server.until_done(done + 1)
    return speed(at)


class Highest:
    """Measure the peak memory of a process inside the block, in bytes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._over = threading.Event()
        self.value = 0

    def __enter__(self) -> Highest:
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self.value = max(self.value, resident_bytes(self._process))

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()


def measure(report: Report) -> None:
    """Run both measurements in turn, after a warm-up upload of each."""
    with place() as at:
        small, large = at.folder / "small.bin", at.folder / "large.bin"
        write(small, 2 * MIB)
        write(large, max(4 * MIB, int(SIZE * report.scale) // MIB * MIB))
        worker = at.worker("-P", "threads", "-c", "1")
        at.bridge()
        by_curl(at, small)
        by_a_job(at, small)
        before = resident_bytes(worker)
        ours, curl = [], []
        with Highest(worker) as highest:
            for _ in range(report.rounds):
                curl.append(by_curl(at, large))
                ours.append(by_a_job(at, large))
        grown = (highest.value - before) / MIB
        what = f"a file of {large.stat().st_size // MIB} MiB"
    report.add(PART, f"{what}: curl", "MiB/s", curl)
    report.add(PART, f"{what}: artifact of a job", "MiB/s", ours)
    ratios = [each / beside for each, beside in zip(ours, curl, strict=True)]
    report.add(PART, f"{what}: artifact of a job / curl", "", ratios, at_least=0.9)
    report.add(PART, f"{what}: memory that the worker grew by", "MiB", [grown], at_most=8.0)
