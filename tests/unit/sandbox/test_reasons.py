"""The line that says why a job failed."""

from __future__ import annotations

import pytest

from mr_celery.sandbox.reasons import reason_in

TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 3, in step\n    return 1 / 0\n           ~~^~~\n'


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("", ""),
        ("\n \n---\n```\n", ""),
        ("\n## this customer\nwants to talk", "## this customer"),
        ('{\n  "error": "no such model"\n}', '"error": "no such model"'),
        (TRACEBACK + "ZeroDivisionError: division by zero", "ZeroDivisionError: division by zero"),
        (TRACEBACK + "ZeroDivisionError: division by zero\n\n", "ZeroDivisionError: division by zero"),
        (TRACEBACK + "proj.Error: first line\nsecond line\n", "proj.Error: first line"),
        (TRACEBACK + "KeyError: 1\n\nDuring handling of it:\n\n" + TRACEBACK + "_Own: 2\nnote", "_Own: 2"),
        ("the worker says:\n" + TRACEBACK + "KeyError: 'x'", "KeyError: 'x'"),
        (TRACEBACK, "return 1 / 0"),
        ("  | Traceback (most recent call last):\n  |   File 'x'\n  | ValueError: 1\n  +-----", "ValueError: 1"),
        ("Traceback (most recent call last):", "Traceback (most recent call last):"),
        ("é" * 400, "é" * 300),
    ],
)
def test_reason_in(output: str, reason: str) -> None:
    assert reason_in(output) == reason
