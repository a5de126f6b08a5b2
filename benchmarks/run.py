"""Measures mr-celery, and compares it with its alternatives and with targets.

    python benchmarks/run.py [PART ...] [--rounds 3] [--scale 1] [--long-run 20000] [--to build/benchmarks]

With ``BENCH_SOURCE=/other/checkout/src``, bridge and workers run the code of that checkout. This way, two versions can
be measured in turn on the same machine.

The parts are the modules in PARTS, see also MODULES. Each has a function ``measure(report)``. Results are written to
``results.md`` and ``results.json``, and plots to the same folder if matplotlib is installed.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from report import Report

PARTS = ("cost", "throughput", "pickup", "idle", "growth", "uploads", "recovering", "names", "nodes", "redis")

MODULES = {"redis": "redis_cost"}
"""Parts whose module has another name, because a library has theirs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="factor for numbers and times; 0.01 for a quick test")
    parser.add_argument("--long-run", type=int, default=20_000, metavar="JOBS", help="jobs of the long run in growth")
    parser.add_argument("--to", type=Path, default=Path("build/benchmarks"))
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    report, began = Report(options.rounds, options.scale, options.long_run), time.monotonic()
    for part in options.parts or PARTS:
        part_began = time.monotonic()
        import_module(MODULES.get(part, part)).measure(report)
        print(f"{part}: {time.monotonic() - part_began:.0f} s", file=sys.stderr, flush=True)
        report.write(options.to)
    if find_spec("matplotlib"):
        import_module("plots").draw(report.curves, options.to)
    print(report.markdown())
    print(f"{time.monotonic() - began:.0f} s; also in {options.to}/results.json")


if __name__ == "__main__":
    main()
