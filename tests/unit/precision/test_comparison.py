"""Comparisons: by hand, and the promises of the interval and the verdict by simulation."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from glm4v.errors import InvalidRequest
from precision.compare_command import TOLERANCE
from precision.comparison import Verdict, compare, decide, interval

Make = Callable[[float], NDArray[np.float64]]  # true difference -> [runs, images]

_RUNS = 2000
_IMAGES = 100
_RESAMPLES = 1000
_SPREAD = 0.03  # of differences of cosines between unlike captions of an image


def verdicts(differences: NDArray[np.float64]) -> list[Verdict]:
    low, high = interval(differences, np.random.default_rng(7), _RESAMPLES)
    return [decide(float(a), float(b), TOLERANCE) for a, b in zip(low, high, strict=True)]


def normal(mean: float) -> NDArray[np.float64]:
    return np.random.default_rng(3).normal(mean, _SPREAD, (_RUNS, _IMAGES))


def mostly_equal(mean: float) -> NDArray[np.float64]:
    """Four captions of five are the same; the others differ widely."""
    rng = np.random.default_rng(4)
    differs = rng.random((_RUNS, _IMAGES)) < 0.2
    return np.where(differs, rng.normal(mean / 0.2, 2 * _SPREAD, (_RUNS, _IMAGES)), 0.0)


@pytest.mark.parametrize("make", [normal, mostly_equal])
def test_the_interval_holds_the_true_difference_as_often_as_it_says(make: Make) -> None:
    low, high = interval(make(-0.01), np.random.default_rng(5), _RESAMPLES)
    covered = ((low <= -0.01) & (high >= -0.01)).mean()
    assert 0.93 <= covered <= 0.97


def test_few_images_widen_the_interval() -> None:
    few = np.random.default_rng(6).normal(-0.01, _SPREAD, (_RUNS, 12))
    low, high = interval(few, np.random.default_rng(5), _RESAMPLES)
    assert 0.93 <= ((low <= -0.01) & (high >= -0.01)).mean() <= 0.97  # 0.90 if it were not


@pytest.mark.parametrize("make", [normal, mostly_equal])
def test_equal_systems_are_called_equal_and_a_drop_is_found(make: Make) -> None:
    equal = verdicts(make(0.0))
    assert equal.count(Verdict.EQUAL) >= 0.93 * _RUNS
    dropped = verdicts(make(-0.02))
    assert dropped.count(Verdict.WORSE) >= 0.80 * _RUNS
    assert dropped.count(Verdict.BETTER) == 0


def test_a_comparison_by_hand() -> None:
    first = [0.30, 0.31, 0.32, 0.33]
    second = [0.32, 0.31 + 5e-6, 0.31, 0.37]
    found = compare(first, second, 0.02)
    assert found.first_mean == pytest.approx(0.315)
    assert found.second_mean == pytest.approx(0.3275, abs=1e-5)
    assert found.difference == pytest.approx(0.0125, abs=1e-5)
    assert (found.wins, found.ties, found.losses) == (2, 1, 1)
    assert found.low < found.difference < found.high
    # Of four differences drawn with replacement, the mean of the smallest and of the largest.
    assert found.low == pytest.approx(-0.01)
    assert found.high == pytest.approx(0.04)
    assert compare(first, second, 0.02) == found  # the same seed, the same interval


def test_no_difference_is_said_with_the_rule_of_three_and_no_nan() -> None:
    found = compare([0.3] * 60, [0.3 + 9e-6] * 60, 0.02)
    assert found.verdict is Verdict.IDENTICAL
    assert (found.difference, found.low, found.high) == (0.0, 0.0, 0.0)
    assert found.most_unseen == pytest.approx(0.05)
    assert (found.wins, found.ties, found.losses) == (0, 60, 0)


def test_a_difference_that_never_varies_has_an_interval() -> None:
    found = compare([0.3] * 60, [0.25] * 60, 0.02)
    assert found.verdict is Verdict.WORSE
    assert not any(math.isnan(value) for value in (found.low, found.high))
    assert found.low == pytest.approx(-0.05)
    assert found.high == pytest.approx(-0.05)


@pytest.mark.parametrize("count", [0, 1])
def test_one_image_has_no_interval(count: int) -> None:
    with pytest.raises(InvalidRequest, match="an interval needs two"):
        compare([0.3] * count, [0.2] * count, 0.02)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.0, 0.0, Verdict.IDENTICAL),
        (-0.02, 0.02, Verdict.EQUAL),
        (-0.015, -0.001, Verdict.EQUAL),  # below 0, but by what does not matter
        (-0.021, -0.001, Verdict.WORSE),
        (0.001, 0.021, Verdict.BETTER),
        (-0.021, 0.001, Verdict.UNDECIDED),
        (-0.03, 0.03, Verdict.UNDECIDED),
        (0.0, 0.03, Verdict.UNDECIDED),
    ],
)
def test_the_verdict_is_that_of_the_interval(low: float, high: float, verdict: Verdict) -> None:
    assert decide(low, high, 0.02) is verdict
