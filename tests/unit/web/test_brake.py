"""The rate limit for attempts with wrong tokens."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mr_celery.web.brake import _BURST, _PER_SECOND, _WAIT_SECONDS, _WAITING, Brake


class Time:
    """A clock that the brake's pauses advance."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr("mr_celery.web.brake.sleep", time.sleep)
    return time


def scope(host: str = "192.0.2.1") -> dict[str, Any]:
    return {"client": (host, 1234)}


def attempts(brake: Brake, number: int, *hosts: str) -> list[bool]:
    """Make this number of attempts from each address."""

    async def make() -> list[bool]:
        return [await brake.is_too_fast(scope(host)) for host in hosts or ("192.0.2.1",) for _ in range(number)]

    return asyncio.run(make())


def test_first_attempts_are_answered_at_once(time: Time) -> None:
    assert attempts(Brake(lambda: time.now), _BURST) == [False] * _BURST
    assert time.pauses == []


def test_further_attempts_wait_for_their_turn_and_then_fail(time: Time) -> None:
    found = attempts(Brake(lambda: time.now), 1000)
    assert found.count(False) == _BURST + int(_WAIT_SECONDS * _PER_SECOND)
    assert time.pauses[:2] == pytest.approx([1 / _PER_SECOND, 2 / _PER_SECOND])
    assert max(time.pauses) == _WAIT_SECONDS
    assert len(time.pauses) == 1000 - _BURST


def test_turns_come_back(time: Time) -> None:
    brake = Brake(lambda: time.now)
    attempts(brake, 1000)
    time.now += _WAIT_SECONDS + _BURST / _PER_SECOND
    time.pauses.clear()
    assert attempts(brake, _BURST) == [False] * _BURST
    assert time.pauses == []


def test_addresses_are_independent_and_few_are_kept(time: Time) -> None:
    brake = Brake(lambda: time.now)
    attempts(brake, 1000)
    assert attempts(brake, 1, *(f"10.0.{number // 250}.{number % 250}" for number in range(3000))) == [False] * 3000
    assert len(brake._free_at) == 1000


def test_an_ipv6_network_is_one_address(time: Time) -> None:
    brake = Brake(lambda: time.now)
    found = attempts(brake, 1, *(f"2001:db8::{number:x}" for number in range(1, 200)))
    assert found.count(True) > 100
    assert attempts(brake, 1, "2001:db8:0:1::1") == [False]


def test_few_attempts_wait_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def flood() -> list[bool]:
        end = asyncio.Event()

        async def sleep(seconds: float) -> None:
            await end.wait()

        monkeypatch.setattr("mr_celery.web.brake.sleep", sleep)
        brake = Brake(lambda: 1000.0)
        tasks = [asyncio.create_task(brake.is_too_fast(scope())) for _ in range(1000)]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1000 - _WAITING
        end.set()
        return list(await asyncio.gather(*tasks))

    assert asyncio.run(flood()).count(False) == _BURST + int(_WAIT_SECONDS * _PER_SECOND)
