"""SECURITY.md names existing tests, at least one for each threat, and contains no more than the site's page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/.]+\.py)(?:::(\w+))?`", PAGE)))
PARTS = re.split(r"\n### ", PAGE.partition("\n## Threats, and their tests\n")[2].partition("\n## ")[0])[1:]
THREATS = [line for part in PARTS for line in part.splitlines() if line.startswith("| ") and "---" not in line]


@pytest.mark.parametrize(("file", "test"), NAMED, ids=[f"{file}::{test}" for file, test in NAMED])
def test_each_test_exists(file: str, test: str) -> None:
    text = (ROOT / file).read_text()
    assert re.search(rf"(def|class) {test}[(:]", text) if test else "def test_" in text


def test_each_threat_has_one() -> None:
    threats = [line for line in THREATS if not line.startswith("| threat ")]
    assert len(threats) > 30
    assert [line for line in threats if "`tests/" not in line.split(" | ")[1]] == []


def test_each_party_has_its_limits() -> None:
    rows = re.findall(r"^\| \*\*.*\|$", PAGE, re.MULTILINE)
    assert len(rows) == 8
    assert all(len([cell for cell in row.strip("|").split(" | ") if cell.strip()]) == 3 for row in rows)


def test_the_site_has_the_page() -> None:
    assert "{include} ../SECURITY.md" in (ROOT / "docs" / "security.md").read_text()
