"""The users' page on performance shows the same measurements as the developers' page."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

DOCS = Path(__file__).parents[2] / "docs"
MEASURED = (DOCS / "development" / "performance.md").read_text()


def _tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("performance_page", DOCS.parent / "tools" / "performance_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_three_numbers_are_measured() -> None:
    numbers = re.findall(r"^\| \*\*([\d.]+ \S+)\*\*", (DOCS / "performance.md").read_text(), re.MULTILINE)
    assert len(numbers) == 3
    rows = [re.sub(r" ± [\d.]+", "", line) for line in MEASURED.splitlines()]
    assert [number for number in numbers if not any(f"| {number} |" in row for row in rows)] == []


def test_the_picture_is_drawn_from_the_measurements() -> None:
    tool = _tool()
    assert tool.PICTURE.read_text() == tool.picture(MEASURED), "draw it with tools/performance_page.py"


def test_new_results_replace_the_old_ones() -> None:
    page = _tool().with_stats(MEASURED, "new\n")
    assert "<!-- stats -->\nnew\n<!-- /stats -->" in page
    assert "### Throughput" not in page
    assert page.endswith(MEASURED[-100:])
