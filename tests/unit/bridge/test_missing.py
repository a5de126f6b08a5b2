"""What it means that a job in flight is in neither of the server's lists."""

from __future__ import annotations

import pytest

from mr_celery.bridge.sync import MISSES, SILENT_SECONDS, verdict
from mr_celery.client.api import STATUSES, TERMINAL
from mr_celery.ledger import Missed

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
def test_where_the_server_does_not_tell_absence_counts(
    times: int, seconds: float, seen: bool, lists_empty: bool, expected: str
) -> None:
    assert verdict(Missed(times, seconds), None, seen=seen, lists_empty=lists_empty) == expected


@pytest.mark.parametrize("missed", [Missed(1, 0.0), Missed(MISSES, 1.0), Missed(99, LONG * 10)])
@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("lists_empty", [True, False])
@pytest.mark.parametrize("status", STATUSES)
def test_where_the_server_tells_that_decides(status: str, lists_empty: bool, seen: bool, missed: Missed) -> None:
    expected = "aborted" if status in TERMINAL else "open"
    assert verdict(missed, status, seen=seen, lists_empty=lists_empty) == expected
