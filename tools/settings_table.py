"""Writes the table of settings to the README, generated from the code."""

from __future__ import annotations

import sys
from pathlib import Path

from mr_celery.settings import options

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- settings -->\n", "<!-- /settings -->"


def table() -> str:
    """Format the table as Markdown."""
    lines = ["| environment | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    for option in options():
        default = f"`{option.default}`" if option.default else ""
        lines.append(f"| `{option.environment}` | {default} | {option.allowed} | {option.about} |")
    return "\n".join(lines) + "\n"


def with_table(readme: str) -> str:
    """The README with the generated table."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    text = README.read_text()
    README.write_text(with_table(text))
    sys.exit(0)
