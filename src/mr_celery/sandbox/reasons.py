"""The line of a job's output that says why it failed or was escalated."""

from __future__ import annotations

_TRACEBACK = "Traceback (most recent call last):"
_MAX_CHARACTERS = 300


def reason_in(output: str) -> str:
    """The first line with a letter or digit; of a Python traceback the exception, such as ``KeyError: 'x'``.

    Args:
        output: the job's output.

    Returns:
        At most 300 characters.
    """
    _, traceback, after = output.rpartition(_TRACEBACK)
    lines = [line for line in (after or output).splitlines() if any(map(str.isalnum, line))]
    if traceback:  # its frames are indented; the lines after the exception's first one belong to its message
        lines = [line for line in lines if not line[0].isspace()] or lines[-1:]
    return lines[0].strip(" |\t")[:_MAX_CHARACTERS] if lines else ""
