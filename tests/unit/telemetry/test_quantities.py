"""Durations and counts in logs and on the terminal."""

from __future__ import annotations

import pytest

from mr_celery.telemetry.quantities import ago, counted, data_size, duration, seconds_of


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-2, "0 ms"),
        (0, "0 ms"),
        (0.0124, "12 ms"),
        (0.0994, "99 ms"),
        (0.0996, "0.1 s"),
        (0.44, "0.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3599, "60 min"),
        (3600, "1 h"),
        (86400, "1 d"),
        (864000, "10 d"),
    ],
)
def test_duration(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
    assert ago(seconds) == f"{shown} ago"


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 KiB"),
        (20480, "20 KiB"),
        (1023 * 1024, "1.0 MiB"),
        (3 * 2**19, "1.5 MiB"),
        (12 * 2**30, "12 GiB"),
        (2**50, "1024 TiB"),
    ],
)
def test_data_size(number: int, shown: str) -> None:
    assert data_size(number) == shown


def test_counted() -> None:
    assert [counted(number, "job") for number in (0, 1, 2)] == ["0 jobs", "1 job", "2 jobs"]
    assert [counted(number, "try") for number in (1, 2)] == ["1 try", "2 tries"]
    assert [counted(2, noun) for noun in ("key", "other delivery")] == ["2 keys", "2 other deliveries"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30min", 1800), ("30m", 1800), (" 1.5 h ", 5400), ("2d", 172800), ("7", 7)]
)
def test_a_duration_is_parsed(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "1x", "h", "-1h", "1h30", "inf", "1e3s", "٣s", "9" * 400])
def test_an_invalid_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration such as 90s, 30min, 1h or 2d"):
        seconds_of(text)
