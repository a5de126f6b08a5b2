"""Writes the benchmark results to docs/development/performance.md, and draws the picture of docs/performance.md.

python tools/performance_page.py build/benchmarks
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "development" / "performance.md"
PICTURE = DOCS / "images" / "performance-throughput.svg"
PLOTS = {
    "cpu-of-a-job-in-ms-over-jobs-in-flight": "in-flight",
    "cpu-of-a-job-in-ms-over-jobs-pending": "pending",
    "rss-in-mib-over-jobs-done": "rss",
    "cpu-for-a-name-in-over-worker-names": "names",
    "cpu-of-an-idle-bridge-in-over-nodes": "nodes",
}
BARS = {
    "official SDK, one process": "official SDK, one process",
    "official SDK, 4 processes with one name": "official SDK, four processes",
    "mr-celery, one worker with 32 threads": "mr-celery, one worker with 32 threads",
}
BEGIN, END = "<!-- stats -->\n", "<!-- /stats -->"
SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {height}" role="img" font-family="sans-serif" font-size="15">
  <title>{title}</title>
  <style>
    text {{ fill: #1f2933 }} rect {{ fill: #9aa5b1 }} .own {{ fill: #66a978 }}
    @media (prefers-color-scheme: dark) {{ text {{ fill: #e4e7eb }} }}
  </style>
{bars}
</svg>
"""
BAR = """\
  <text x="2" y="{label_y}">{label}</text>
  <rect{own} x="2" y="{y}" width="{width:.0f}" height="20" rx="3"/>
  <text x="{number_x:.0f}" y="{number_y}" font-weight="600">{jobs:g} jobs/s</text>"""


def with_stats(page: str, results: str) -> str:
    """Insert the tables of ``results.md`` into the page."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{results}{END}{after}"


def headed(results: str) -> str:
    """Format the tables with the names of the parts as headings."""
    lines = (
        f"### {line.strip('*')}" if line.startswith("**") and line.endswith("**") else line
        for line in results.splitlines()
    )
    return "\n".join(lines) + "\n"


def picture(page: str) -> str:
    """Draw the throughput in the page's table as bars."""
    found = {
        label: float(re.search(rf"responses take 50 ms: {re.escape(row)} \| ([\d.]+)", page)[1])  # type: ignore[index]
        for row, label in BARS.items()
    }
    bars = []
    for y, (label, jobs) in zip(range(34, 999, 58), found.items(), strict=False):
        width, own = 600 * jobs / max(found.values()), ' class="own"' * label.startswith("mr-celery")
        places = {"y": y, "label_y": y - 8, "number_y": y + 15, "width": width, "number_x": width + 10}
        bars.append(BAR.format(label=label, jobs=jobs, own=own, **places))
    title = "Jobs a second: " + "; ".join(f"{label}: {jobs:g}" for label, jobs in found.items())
    return SVG.format(height=12 + 58 * len(found), title=title, bars="\n".join(bars))


if __name__ == "__main__":
    found = Path(sys.argv[1])
    PAGE.write_text(with_stats(PAGE.read_text(), headed((found / "results.md").read_text())))
    PICTURE.write_text(picture(PAGE.read_text()))
    for drawn, shown in PLOTS.items():
        shutil.copy(found / f"{drawn}.svg", DOCS / "images" / f"performance-{shown}.svg")
