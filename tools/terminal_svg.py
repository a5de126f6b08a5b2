"""Records the output of a command in a terminal, and draws it as an SVG file, either still or as a looping animation.

python tools/terminal_svg.py docs/images/demo.svg mr-celery demo
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from pathlib import Path

COLUMNS, ROWS = 100, 24
WIDTH, HEIGHT, MARGIN = 8.4, 19, 14
"""Size of a character and of the margin, in pixels."""

LONGEST_PAUSE, END = 3.0, 6.0
"""Longer pauses of the command are shown shorter; time for which a film shows its end. In seconds."""

STYLES = {1: "b", 2: "d", 31: "r", 32: "g", 33: "y", 34: "u", 35: "m", 36: "c", 90: "d"}
SEQUENCE = re.compile(r"\x1b\[([\d;]*)([A-Za-z])")
SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}">
  <title>{title}</title>
  <style>
    text {{ font: 14px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #d8dee9; white-space: pre }}
    .b {{ font-weight: 700 }} .d {{ fill: #8f9bb3 }} .r {{ fill: #ff8a80 }} .g {{ fill: #a3d977 }}
    .y {{ fill: #f3c969 }} .u {{ fill: #82b1ff }} .m {{ fill: #d6a2e8 }} .c {{ fill: #7fd4d9 }}
    .screen {{ fill: #1d2330 }}
{animation}  </style>
  <rect class="screen" width="100%" height="100%" rx="8"/>
  <svg x="{margin}" y="{margin}" width="{inner_width:.0f}" height="{inner_height}">
    <g class="film" transform="translate(0 {scrolled})">
{text}
{curtain}    </g>
  </svg>
</svg>
"""
ANIMATION = """\
    @media (prefers-reduced-motion: no-preference) {{
      .film {{ animation: scroll {seconds:.1f}s step-end infinite }}
      .curtain {{ animation: open {seconds:.1f}s step-end infinite }}
    }}
    @keyframes scroll {{ {scroll} }}
    @keyframes open {{ {open} }}
"""


@dataclass
class Recording:
    """The output of a command.

    Args:
        lines: the lines, with the terminal's escape sequences for colours.
        times: when each line appeared, in seconds from the start.
    """

    lines: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def add(self, text: str, moment: float) -> None:
        """Add a line."""
        self.lines.append(text)
        self.times.append(moment)

    def with_short_pauses(self) -> Recording:
        """The same lines, each at most ``LONGEST_PAUSE`` after the previous one."""
        moments = [0.0]
        for before, after in pairwise([0.0, *self.times]):
            moments.append(moments[-1] + min(after - before, LONGEST_PAUSE))
        return Recording(self.lines, moments[1:])


def record(command: str, *, environment: Mapping[str, str] | None = None, shown: str = "") -> Recording:
    """Run a command in a terminal of ``COLUMNS`` columns until it ends.

    Args:
        command: the command line.
        environment: its environment; by default that of this process.
        shown: the command line in the picture, if different.
    """
    recording = Recording()
    recording.add(f"\x1b[32m$\x1b[0m \x1b[1m{shown or command}\x1b[0m", 0.0)
    own, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        shlex.split(command),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env={**(os.environ if environment is None else environment), "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)},
    )
    os.close(theirs)
    started, rest = time.monotonic(), b""
    for part in _parts(own):
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            recording.add(line.decode().rstrip("\r"), time.monotonic() - started)
    os.close(own)
    process.wait()
    return recording


def _parts(terminal: int) -> Iterator[bytes]:
    """The output written to the terminal, until its last process ends."""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # Linux reports the end as an error
            return
        if not part:
            return
        yield part


def still(recording: Recording, title: str) -> str:
    """Draw all lines."""
    return _drawn(recording.lines, title, rows=len(_wrapped(recording.lines)))


def film(recording: Recording, title: str) -> str:
    """Draw an animation of ``ROWS`` rows. Readers who prefer reduced motion see its end."""
    recording = recording.with_short_pauses()
    counts = [len(_wrapped(recording.lines[: number + 1])) for number in range(len(recording.lines))]
    seconds = recording.times[-1] + END
    shown = {f"{100 * moment / seconds:.2f}%": rows for moment, rows in zip(recording.times, counts, strict=True)}
    scroll = " ".join(f"{at} {{ transform: translateY({-_scrolled(rows, ROWS)}px) }}" for at, rows in shown.items())
    opened = " ".join(f"{at} {{ transform: translateY({HEIGHT * rows}px) }}" for at, rows in shown.items())
    animation = ANIMATION.format(seconds=seconds, scroll=scroll, open=opened)
    return _drawn(recording.lines, title, rows=ROWS, animation=animation)


def _scrolled(lines: int, rows: int) -> int:
    return HEIGHT * max(0, lines - rows)


def _drawn(lines: list[str], title: str, *, rows: int, animation: str = "") -> str:
    wrapped = _wrapped(lines)
    width, height = WIDTH * COLUMNS, HEIGHT * rows
    curtain = f'      <rect class="screen curtain" y="0" width="100%" height="{HEIGHT * len(wrapped)}" '
    curtain += f'transform="translate(0 {HEIGHT * len(wrapped)})"/>\n'
    return SVG.format(
        title=escape(title),
        width=width + 2 * MARGIN,
        height=height + 2 * MARGIN,
        margin=MARGIN,
        inner_width=width,
        inner_height=height,
        scrolled=-_scrolled(len(wrapped), rows),
        text="\n".join(_text(line, row) for row, line in enumerate(wrapped)),
        animation=animation,
        curtain=curtain if animation else "",
    )


Piece = tuple[str, str]
"""A text and the names of its styles."""


def _wrapped(lines: list[str]) -> list[list[Piece]]:
    """The rows of the terminal."""
    rows: list[list[Piece]] = []
    for line in lines:
        rows.append([])
        room = COLUMNS
        for text, style in _pieces(line):
            while text:
                if not room:
                    rows.append([])
                    room = COLUMNS
                rows[-1].append((text[:room], style))
                text, room = text[room:], room - len(text[:room])
    return rows


def _pieces(line: str) -> Iterator[Piece]:
    styles: list[str] = []
    at = 0
    for match in [*SEQUENCE.finditer(line), None]:
        if text := line[at : match.start() if match else None]:
            yield text, " ".join(styles)
        if match is None:
            return
        at = match.end()
        for code in (int(each or 0) for each in match[1].split(";")) if match[2] == "m" else ():
            styles = [*styles, STYLES[code]] if code in STYLES else [] if code == 0 else styles


def _text(row: list[Piece], number: int) -> str:
    y, column, parts = HEIGHT * number + 14, 0, []
    for text, style in row:
        if text.strip():
            x, length = WIDTH * column, WIDTH * len(text)
            named = f' class="{style}"' if style else ""
            parts.append(f'<tspan x="{x:.1f}" textLength="{length:.1f}"{named}>{escape(text)}</tspan>')
        column += len(text)
    return f'      <text y="{y}">{"".join(parts)}</text>'


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(film(record(shlex.join(sys.argv[2:])), shlex.join(sys.argv[2:])))
