"""A leak is told from noise, from a cache that fills, and from what rises and falls."""

from random import Random

import pytest

from tests.soak.slope import trend

TIMES = [5.0 * number for number in range(1440)]  # two hours
LEVEL = 2e8
TOLERANCE = 0.03


def noise(number: int) -> float:
    return Random(number).gauss(0, 1e6)


def is_rising(values: list[float]) -> bool:
    return trend(TIMES, values, TOLERANCE).is_rising


def test_a_leak_is_found() -> None:
    leak = [LEVEL + 2_000 * at + noise(number) for number, at in enumerate(TIMES)]
    assert is_rising(leak)
    assert trend(TIMES, leak, TOLERANCE).growth == pytest.approx(0.75 * 2_000 * 7200, rel=0.05)


def test_one_descriptor_a_minute_is_found() -> None:
    assert trend(TIMES, [40 + at // 60 for at in TIMES], 0.02).is_rising


def test_noise_around_a_level_is_no_leak() -> None:
    assert not is_rising([LEVEL + noise(number) for number in range(len(TIMES))])


def test_a_cache_that_fills_in_the_beginning_is_no_leak() -> None:
    assert not is_rising([LEVEL + min(at, 1500) * 1e5 for at in TIMES])


def test_what_rises_and_falls_is_no_leak() -> None:
    assert not is_rising([LEVEL + (at % 1300) * 5e4 for at in TIMES])


def test_few_samples_show_no_trend() -> None:
    with pytest.raises(ValueError, match="too few"):
        trend(TIMES[:9], TIMES[:9], TOLERANCE)
