"""The documentation as the tests read it: its pages, and the code blocks in them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "examples/README.md",
    ROOT / "deploy/README.md",
]
EXAMPLES = {path: path.read_text() for path in sorted((ROOT / "examples").rglob("*.py"))}


@dataclass(frozen=True)
class Block:
    """A code block.

    Args:
        page: the page's path.
        section: the line of the heading (of the first or second level) that it is under.
        line: the line of its first line of code.
        language: the word after the fence.
        text: the code.
    """

    page: Path
    section: int
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def example(self) -> Path | None:
        """The example application that it shows a part of, word for word: its folder."""
        paths = (path for path, text in EXAMPLES.items() if self.language == "python" and self.text in text)
        shown = next(paths, None)
        return shown and ROOT / "examples" / shown.relative_to(ROOT / "examples").parts[0]


def blocks_of(page: Path) -> list[Block]:
    """All code blocks of a page, the indented ones included (they have no language)."""
    found, section = [], 0
    for token in MarkdownIt().parse(page.read_text()):
        if token.map is None:
            continue
        line = token.map[0] + 1
        if token.type == "heading_open" and token.tag in ("h1", "h2"):
            section = line
        elif token.type == "fence":
            found.append(Block(page, section, line + 1, token.info.split(" ")[0], token.content))
        elif token.type == "code_block":
            found.append(Block(page, section, line, "", token.content))
    return found


def anchors_of(page: Path) -> set[str]:
    """What a link to a heading of a page says after the ``#``, on GitHub and in the built pages."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


ALL = [block for page in PAGES for block in blocks_of(page)]


def name_of(blocks: Block | list[Block]) -> str:
    """How a test of these blocks is called: the page, and the lines where they begin."""
    first, *others = [blocks] if isinstance(blocks, Block) else blocks
    return "+".join([str(first), *(str(other.line) for other in others)])


def modules(blocks: Iterable[Block]) -> list[list[Block]]:
    """The Python of each page, but for what is a part of an example."""
    python = [block for block in blocks if block.language == "python" and not block.example]
    return [list(of_page) for _, of_page in groupby(python, key=lambda block: block.page)]


def module_text(blocks: Iterable[Block]) -> str:
    """A page's Python as one module, each line where it is on the page, so that a traceback tells the place."""
    lines: list[str] = []
    for block in blocks:
        lines += [""] * (block.line - 1 - len(lines))
        lines += block.text.splitlines()
    return "\n".join(lines) + "\n"


def stories(blocks: Iterable[Block]) -> list[list[Block]]:
    """The commands of each section: they belong together, in their order."""
    shell = [block for block in blocks if block.language in ("sh", "console")]
    return [list(of_section) for _, of_section in groupby(shell, key=lambda block: (block.page, block.section))]


@dataclass(frozen=True)
class Command:
    """A command, and the output that the page shows for it; ``None``: it shows none."""

    line: int
    text: str
    output: str | None = None


def commands_of(block: Block) -> list[Command]:
    """The commands of a block, without comments. In a ``console`` block each follows a dollar, and its output it."""
    found: list[Command] = []
    text = block.text.replace("\\\n", "\0")  # what goes on in the next line
    for number, line in enumerate(text.splitlines(), block.line):
        command = re.sub(r"(^|\s+)#.*", "", line.removeprefix("$ ") if block.language == "console" else line)
        command = re.sub(r"\0\s*", " ", command)
        if block.language == "console" and not line.startswith("$ "):
            before = found.pop()
            found.append(Command(before.line, before.text, f"{before.output or ''}{line}\n"))
        elif command:
            found.append(Command(number, command))
    return found
