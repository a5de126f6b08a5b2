"""Measures mr-celery beside what its users would use instead, and against limits.

    python benchmarks/run.py [PART ...] [--rounds 3] [--scale 1] [--long-run 20000] [--to build/benchmarks]

The parts are the modules that are named in PARTS; each has a function ``measure(report)``. Results go to
``results.md`` and ``results.json``, the plots beside them where matplotlib is installed.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from report import Report

PARTS = ("cost", "throughput", "pickup", "idle", "growth", "uploads", "recovering")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of numbers and times; 0.01: only whether it works")
    parser.add_argument("--long-run", type=int, default=20_000, metavar="JOBS", help="of the long run in growth")
    parser.add_argument("--to", type=Path, default=Path("build/benchmarks"))
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    report, began = Report(options.rounds, options.scale, options.long_run), time.monotonic()
    for part in options.parts or PARTS:
        part_began = time.monotonic()
        import_module(part).measure(report)
        print(f"{part}: {time.monotonic() - part_began:.0f} s", file=sys.stderr, flush=True)
        report.write(options.to)
    if find_spec("matplotlib"):
        import_module("plots").draw(report.curves, options.to)
    print(report.markdown())
    print(f"{time.monotonic() - began:.0f} s; also in {options.to}/results.json")


if __name__ == "__main__":
    main()
