"""An upload that tells of itself, and can be ended while it goes on."""

from __future__ import annotations

import io
import logging

import pytest

from mr_celery.delivery.progress import MIB, TELL_SECONDS, Progress, watched
from support.ledgers import Clock


class Stop(Exception):
    pass


@pytest.fixture
def clock() -> Clock:
    return Clock()


def progress(clock: Clock, data: bytes = bytes(4 * MIB)) -> Progress:
    return Progress(io.BytesIO(data), "job=7 artifact 'a.mp4'", len(data), beat=lambda: None, clock=clock)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_it_is_the_file() -> None:
    file = watched(io.BytesIO(b"0123456789"), "it", 10, beat=lambda: None)
    assert file.seekable()
    assert file.seek(-8, io.SEEK_END) == 2
    assert (file.read(3), file.tell(), file.read(), file.read()) == (b"234", 5, b"56789", b"")


def test_an_upload_that_is_over_soon_says_nothing(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    file = progress(clock)
    clock.advance(TELL_SECONDS - 0.1)
    file.read()
    assert lines(caplog) == []


def test_a_long_one_tells_how_far_it_is(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    file = progress(clock)
    clock.advance(TELL_SECONDS)
    file.read(2 * MIB)
    file.read(1)
    assert lines(caplog) == ["job=7 artifact 'a.mp4': 2 of 4 MiB sent, 0.2 MiB/s"]


def test_it_tells_again_only_after_a_while(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    file = progress(clock)
    for _ in range(100):
        clock.advance(TELL_SECONDS / 10)
        file.read(1)
    assert len(lines(caplog)) == 10


def test_it_beats_before_each_part() -> None:
    beats: list[int] = []
    inner = io.BytesIO(b"0123456789")
    file = Progress(inner, "it", 10, beat=lambda: beats.append(inner.tell()))
    while file.read(4):
        pass
    assert beats == [0, 4, 8, 10]


def test_what_the_beat_raises_ends_it_before_more_is_read() -> None:
    def stop() -> None:
        raise Stop

    inner = io.BytesIO(b"0123456789")
    with pytest.raises(Stop):
        Progress(inner, "it", 10, beat=stop).read(4)
    assert inner.tell() == 0
