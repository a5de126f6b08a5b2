"""The verdict about a job in flight that is in neither of the server's lists."""

from __future__ import annotations

from itertools import product
from typing import Any, cast

import pytest

from mr_celery.bridge.limits import MISSES, SILENT_SECONDS
from mr_celery.bridge.recovery.in_flight_sync import verdict
from mr_celery.ledger import Missed
from support.statuses import A_FEW_NO_WORD, A_FEW_OVER, A_FEW_PENDING, A_FEW_RUNNING, short

FEW_TIMES = MISSES - 1
LONG = SILENT_SECONDS
SHORT = SILENT_SECONDS - 0.1


@pytest.mark.parametrize(
    ("times", "seconds", "seen", "lists_empty", "expected"),
    [
        pytest.param(FEW_TIMES, 0.0, True, False, "ask again", id="a single miss may be a lapse"),
        pytest.param(MISSES, 0.0, True, False, "aborted", id="misses in a row are an abort"),
        pytest.param(MISSES + 5, SHORT, True, False, "aborted", id="many misses"),
        pytest.param(MISSES, 0.0, True, True, "ask again", id="empty lists may be a lapse"),
        pytest.param(MISSES + 50, SHORT, True, True, "ask again", id="even many of them"),
        pytest.param(MISSES, LONG, True, True, "aborted", id="empty lists for long are a killswitch"),
        pytest.param(FEW_TIMES, LONG, True, False, "aborted", id="a single miss long ago"),
        pytest.param(MISSES, 0.0, False, False, "ask again", id="a job never seen may not be listed at all"),
        pytest.param(MISSES + 50, LONG * 10, False, False, "ask again", id="however often it is missing"),
        pytest.param(MISSES + 50, LONG * 10, False, True, "ask again", id="nor with empty lists"),
    ],
)
def test_without_a_reported_status_absence_counts(
    times: int, seconds: float, seen: bool, lists_empty: bool, expected: str
) -> None:
    assert verdict(Missed(times, seconds), None, seen=seen, lists_empty=lists_empty) == expected


SOMETIMES = [Missed(1, 0.0), Missed(MISSES, 1.0), Missed(99, LONG * 10), None]


@pytest.mark.parametrize("status", [*A_FEW_PENDING, *A_FEW_RUNNING, *A_FEW_OVER], ids=short)
def test_a_reported_status_decides(status: str) -> None:
    expected = "aborted" if status in A_FEW_OVER else "open"
    for missed, seen, lists_empty in product(SOMETIMES, (True, False), (True, False)):
        assert verdict(missed, status, seen=seen, lists_empty=lists_empty) == expected


@pytest.mark.parametrize("missed", SOMETIMES)
@pytest.mark.parametrize("status", A_FEW_NO_WORD, ids=short)
def test_an_unusable_status_decides_nothing(status: object, missed: Missed | None) -> None:
    of_none = verdict(missed, None, seen=True, lists_empty=False)
    assert verdict(missed, cast(Any, status), seen=True, lists_empty=False) == of_none


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("lists_empty", [True, False])
def test_a_job_that_incomplete_lists_may_contain_is_not_missing(lists_empty: bool, seen: bool) -> None:
    assert verdict(None, None, seen=seen, lists_empty=lists_empty) == "ask again"
