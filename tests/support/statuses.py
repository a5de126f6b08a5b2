"""Statuses as a server may write them, with the meaning of each."""

from __future__ import annotations

PENDING = ("pending", "PENDING", "Pending", " pending\n", "pEnDiNg\t", "\x00pending", "ｐｅｎｄｉｎｇ")
RUNNING = ("running", "RUNNING", "Running", " running ", "run\u200bning")
DONE = ("done", "DONE", " Done ", "completed", "Completed")
FAILED = ("failed", "FAILED", "failed\r\n")
ENDED_BY_OTHERS = (
    "cancelled",
    "Cancelled",
    " CANCELLED ",
    "canceled",
    "archived",
    "aborted",
    "timed_out",
    "timed out",
    "expired",
    "error",
    "paused",
    "deleted",
    "annulé",
    "取消",
    "in_progress",
    "pending?",
    "not running",
    "x" * 100_000,
)
OVER = (*DONE, *FAILED, "escalated", "Escalated", *ENDED_BY_OTHERS)
A_FEW_OVER = ("done", "cancelled", "Completed", " ARCHIVED ", "取消")
NO_WORD: tuple[object, ...] = (
    *(None, "", " ", "\n", "\x00", "-", "7", "…"),
    *(0, 7, -1.5, True, False, [], ["running"], {}, {"status": "done"}),
)
"""What is no word at all, so that nothing follows from it."""

A_FEW_RUNNING = ("running", " RUNNING ")
A_FEW_PENDING = ("pending", "pEnDiNg\t")
A_FEW_NO_WORD: tuple[object, ...] = (None, "", "7", 7, ["running"])
"""For tests of code that leaves the reading to :mod:`mr_celery.server.job_status`, whose own tests take all."""


def short(value: object) -> str:
    """A status as the name of a test case."""
    return ascii(value)[:20]
