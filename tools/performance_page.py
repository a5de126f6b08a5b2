"""Puts what the benchmarks found into docs/performance.md, with the plots.

python tools/performance_page.py build/benchmarks
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
PLOTS = {
    "cpu-of-a-job-in-ms-over-jobs-in-flight": "in-flight",
    "cpu-of-a-job-in-ms-over-jobs-pending": "pending",
    "rss-in-mib-over-jobs-done": "rss",
}
BEGIN, END = "<!-- figures -->\n", "<!-- /figures -->"


def with_figures(page: str, results: str) -> str:
    """The page with the tables of ``results.md``."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{results}{END}{after}"


def headed(results: str) -> str:
    """The tables with their parts as headings."""
    lines = (
        f"### {line.strip('*')}" if line.startswith("**") and line.endswith("**") else line
        for line in results.splitlines()
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    found = Path(sys.argv[1])
    page = DOCS / "performance.md"
    page.write_text(with_figures(page.read_text(), headed((found / "results.md").read_text())))
    for drawn, shown in PLOTS.items():
        shutil.copy(found / f"{drawn}.svg", DOCS / "images" / f"performance-{shown}.svg")
