"""Random tests: short and the same in each run, or longer and different each time with ``MR_CELERY_FUZZ``.

``MR_CELERY_FUZZ=20`` tries 20 times as many examples, with a new seed. ``make campaign`` uses it.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("MR_CELERY_FUZZ", "1"))
"""How many times as many examples are tried."""

# Each run tries the same examples as the one before, so that a change fails only the tests that it affects.
settings.register_profile("same", deadline=None, derandomize=True, database=None, print_blob=True)
settings.register_profile("new", deadline=None, print_blob=True)


def load_profile() -> None:
    """Let all Hypothesis tests use the profile of this run."""
    settings.load_profile("new" if FACTOR > 1 else "same")


def examples(count: int) -> settings:
    """A decorator for a test with ``@given``: try this many examples, times ``MR_CELERY_FUZZ``."""
    return settings(max_examples=count * FACTOR, suppress_health_check=list(HealthCheck))


def walks(count: int) -> settings:
    """The settings of a state machine: this many walks of 50 steps, times ``MR_CELERY_FUZZ``."""
    return settings(examples(count), stateful_step_count=50)
