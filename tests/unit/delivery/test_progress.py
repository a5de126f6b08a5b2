"""The log of an upload, and its end by an exception."""

from __future__ import annotations

import io
import logging

import pytest

from mr_celery.delivery.progress import LOG_SECONDS, Progress, watched
from support.clock import Clock


class Stop(Exception):
    pass


MIB = 2**20


@pytest.fixture
def clock() -> Clock:
    return Clock()


def progress(clock: Clock, data: bytes = bytes(4 * MIB)) -> Progress:
    return Progress(io.BytesIO(data), "job=7 artifact 0", len(data), beat=lambda: None, clock=clock)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_it_is_the_file() -> None:
    file = watched(io.BytesIO(b"0123456789"), "it", 10, beat=lambda: None)
    assert file.seekable()
    assert file.seek(-8, io.SEEK_END) == 2
    assert (file.read(3), file.tell(), file.read(), file.read()) == (b"234", 5, b"56789", b"")


def test_a_short_upload_is_not_logged(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    file = progress(clock)
    clock.advance(LOG_SECONDS - 0.1)
    file.read()
    assert lines(caplog) == []


def test_a_long_upload_logs_its_progress(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    file = progress(clock)
    clock.advance(LOG_SECONDS)
    file.read(2 * MIB)
    file.read(1)
    assert lines(caplog) == ["job=7 artifact 0: 2.0 MiB of 4.0 MiB sent, 205 KiB/s"]


def test_progress_is_logged_at_intervals(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    file = progress(clock)
    for _ in range(100):
        clock.advance(LOG_SECONDS / 10)
        file.read(1)
    assert len(lines(caplog)) == 10


def test_it_beats_before_each_part() -> None:
    beats: list[int] = []
    inner = io.BytesIO(b"0123456789")
    file = Progress(inner, "it", 10, beat=lambda: beats.append(inner.tell()))
    while file.read(4):
        pass
    assert beats == [0, 4, 8, 10]


def test_an_exception_of_the_beat_ends_the_upload_before_the_next_read() -> None:
    def stop() -> None:
        raise Stop

    inner = io.BytesIO(b"0123456789")
    with pytest.raises(Stop):
        Progress(inner, "it", 10, beat=stop).read(4)
    assert inner.tell() == 0
