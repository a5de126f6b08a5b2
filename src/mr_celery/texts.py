"""The words in which a job is told that it was never run, or run in vain."""

from __future__ import annotations

RESEND_BUDGET = 3
"""How often a message that nobody started is sent again, apart from the attempts of a lost run."""


def lost_texts(why: str) -> tuple[str, str]:
    """The output of a job whose run was lost: where it must not run again, and where it may not any more."""
    return (
        f"the run was lost ({why}), and its handler is declared with on_lost='fail': it was not run again",
        f"the run was lost ({why}), as were all the attempts before it: the job was not run again "
        "(max_attempts). Something in it may kill its worker: look for out-of-memory kills and crashes",
    )


def never_started(why: str) -> str:
    """The output of a job that no worker started."""
    return (
        f"no worker started the job, though it was sent {RESEND_BUDGET + 1} times: {why}. "
        "Is the task registered on the workers, and does one of them consume its queue?"
    )
