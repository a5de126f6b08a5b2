"""The verdict of the soak test: growth or noise."""

from __future__ import annotations

import random

import pytest

from support.growth import Series


@pytest.mark.parametrize(
    ("values", "grows"),
    [
        ([100.0] * 100, False),
        ([50.0] * 20 + [100.0] * 80, False),  # a warm-up
        ([100.0 + number for number in range(100)], True),
        ([100.0 + number / 20 for number in range(100)], False),  # within the share that counts as noise
        ([100.0] * 99 + [500.0], False),  # once
        ([500.0 - number for number in range(100)], False),
        ([float(number) for number in range(10)], False),  # too few
    ],
)
def test_growth_is_told_from_noise(values: list[float], grows: bool) -> None:
    assert Series("MiB", share=0.05, least=2.0, values=values).grows is grows


def test_noise_alone_is_no_growth() -> None:
    chance = random.Random(1)
    series = Series("MiB", share=0.05, least=2.0, values=[chance.uniform(90, 110) for _ in range(400)])
    assert not series.grows
