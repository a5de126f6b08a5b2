"""The pages of the documentation, and their code blocks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent.parent
RECIPES = sorted(page for page in (ROOT / "docs/recipes").glob("*.md") if page.name != "index.md")
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "docs/recipes/index.md",
    *RECIPES,
    ROOT / "examples/README.md",
    ROOT / "deploy/README.md",
]
FROM_NOTHING = [
    ROOT / name
    for name in ("README.md", "docs/index.md", "docs/getting-started.md", "docs/adopting.md", "examples/README.md")
]
"""Pages that a reader follows from an empty folder. The others start with an installation that is at work."""

EXAMPLES = {path: path.read_text() for path in sorted((ROOT / "examples").rglob("*.py"))}


@dataclass(frozen=True)
class Block:
    """A code block.

    Args:
        page: the page's path.
        section: the line of the last heading of level 1 or 2 before it.
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
        """The folder of the example application that contains this code."""
        paths = (path for path, text in EXAMPLES.items() if self.language == "python" and self.text in text)
        shown = next(paths, None)
        return shown and ROOT / "examples" / shown.relative_to(ROOT / "examples").parts[0]

    @property
    def tests_proj(self) -> bool:
        """Whether it is a test of the page's application, to be saved in its own file."""
        return self.language == "python" and bool(re.search("^from proj import ", self.text, re.MULTILINE))


def blocks_of(page: Path) -> list[Block]:
    """All code blocks of a page, including indented ones, which have no language."""
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
    """The anchors of a page's headings, on GitHub and in the built pages, which may include other pages."""
    text = page.read_text()
    included = [page.parent / name for name in re.findall(r"^```{include} (\S+)$", text, re.MULTILINE)]
    headings = [
        heading
        for shown in (text, *(each.read_text() for each in included))
        for heading in re.findall(r"^#+ (.*)$", shown, re.MULTILINE)
    ]
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


ALL = [block for page in PAGES for block in blocks_of(page)]


def name_of(blocks: Block | list[Block]) -> str:
    """A name for a test of these blocks: the page and the first lines of the blocks."""
    first, *others = [blocks] if isinstance(blocks, Block) else blocks
    return "+".join([str(first), *(str(other.line) for other in others)])


def modules(blocks: Iterable[Block]) -> list[list[Block]]:
    """The Python blocks of each page, except excerpts of examples and tests with their own files."""
    python = [block for block in blocks if block.language == "python" and not block.example and not block.tests_proj]
    return [list(of_page) for _, of_page in groupby(python, key=lambda block: block.page)]


def module_text(blocks: Iterable[Block]) -> str:
    """A page's Python as one module. Line numbers are kept, so tracebacks point into the page."""
    lines: list[str] = []
    for block in blocks:
        lines += [""] * (block.line - 1 - len(lines))
        lines += block.text.splitlines()
    return "\n".join(lines) + "\n"


def command_sections(blocks: Iterable[Block]) -> list[list[Block]]:
    """The shell blocks of each section, in order."""
    shell = [block for block in blocks if block.language in ("sh", "console")]
    return [list(of_section) for _, of_section in groupby(shell, key=lambda block: (block.page, block.section))]


@dataclass(frozen=True)
class Command:
    """A command, and the output that the page shows for it, or ``None``."""

    line: int
    text: str
    output: str | None = None


def commands_of(block: Block) -> list[Command]:
    """The commands of a block, without comments. In ``console`` blocks they start with a dollar and have output."""
    found: list[Command] = []
    text = block.text.replace("\\\n", "\0")  # line continuations
    end = ""
    for number, line in enumerate(text.splitlines(), block.line):
        if end:  # inside a here-document
            before = found.pop()
            found.append(Command(before.line, f"{before.text}\n{line}"))
            end = "" if line == end else end
            continue
        if here := re.search(r"<<'(\w+)'$", line):
            end = here[1]
        command = re.sub(r"(^|\s+)#.*", "", line.removeprefix("$ ") if block.language == "console" else line)
        command = re.sub(r"\0\s*", " ", command)
        if block.language == "console" and not line.startswith("$ "):
            before = found.pop()
            found.append(Command(before.line, before.text, f"{before.output or ''}{line}\n"))
        elif command:
            found.append(Command(number, command))
    return found
