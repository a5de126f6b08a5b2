"""Measures mr-celery beside what its users would use instead, and against limits.

    python benchmarks/run.py [PART ...] [--rounds 3] [--to build/benchmarks]

The parts are the modules that are named in PARTS; each has a function ``measure(report)``. Results go to
``results.md`` and ``results.json``, the plots beside them.
"""

from __future__ import annotations

import argparse
import time
from importlib import import_module
from pathlib import Path

from report import Report

PARTS = ("cost", "throughput", "pickup", "idle", "growth", "uploads", "recovering")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--to", type=Path, default=Path("build/benchmarks"))
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    report, began = Report(options.rounds), time.monotonic()
    for part in options.parts or PARTS:
        import_module(part).measure(report)
        report.write(options.to)
    print(report.markdown())
    print(f"{time.monotonic() - began:.0f} s; also in {options.to}/results.json")


if __name__ == "__main__":
    main()
