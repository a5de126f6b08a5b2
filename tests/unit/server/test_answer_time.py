"""The maximum time for a whole response."""

from __future__ import annotations

import pytest

from mr_celery.server.api import UPLOAD_TIMEOUT
from mr_celery.server.transport import answer_seconds


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [(0.5, 2.0), (10.0, 40.0), (30.0, 120.0), (60.0, 120.0), (UPLOAD_TIMEOUT, 120.0), (300.0, 300.0)],
)
def test_an_answer_that_dribbles_holds_its_caller_for_two_minutes(timeout: float, seconds: float) -> None:
    assert answer_seconds(timeout) == seconds
