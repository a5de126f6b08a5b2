"""Texts that would forge lines, hide words or control a terminal if they were printed as they are."""

from __future__ import annotations

FORGED = "[2026-01-01 00:00:00,000: CRITICAL/MainProcess] forged"
"""The begin of a line of Celery's log that no part of the code writes."""

ENDS = ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
"""The line ends of terminals, of log readers and of ``str.splitlines``."""

CONTROLS = [
    "\x00",
    "\x07",
    "\x08",
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\x1b[31m",
    "\x7f",
    "\x9b2J",
    "\x9d0;title\x9c",
    "\t",
]
DIRECTIONS = ["\u061c", "\u200e", "\u200f", *map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))]
INVISIBLE = [
    "\u00ad",
    "\u034f",
    "\u115f",
    "\u200b",
    "\u200c",
    "\u200d",
    "\u2060",
    "\u3164",
    "\ufe0f",
    "\ufeff",
    "\U000e0041",
]
BROKEN = ["\ud800", "\udfff", "\ue000", "\uffff"]

TEXTS = [
    *(f"begin{end}{FORGED}" for end in ENDS),
    *(f"begin{each}rest of a foreign text" for each in (*CONTROLS, *DIRECTIONS, *INVISIBLE, *BROKEN)),
]
"""The texts. Each starts with ``begin``."""

EVERYTHING = "begin" + "x".join((*ENDS, *CONTROLS, *DIRECTIONS, *INVISIBLE, *BROKEN)) + FORGED
"""All of them in one text."""


def unsafe(text: str, *, kept: str = "\n") -> list[str]:
    """The code points in a printed text that must not be there."""
    return sorted({ascii(each) for each in text if each not in kept and (each in INVISIBLE or not each.isprintable())})


def forged(text: str) -> list[str]:
    """The lines of a printed text that begin with a forged one, or with the rest of a foreign text."""
    return [line for line in text.splitlines() if line.lstrip("\x00\x08").startswith((FORGED, "rest of", "[2J"))]
