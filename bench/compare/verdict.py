"""The ratio of two medians, its confidence interval, and what that says."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from bench.compare.rounds import Metric, Round

LEAST_VALUES = 5  # a side, for an interval: of fewer it is far too narrow
CONFIDENCE = 0.95
TOO_FEW = "too few rounds"
_RESAMPLES = 4000
_SEED = 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """B beside A in one metric.

    Attributes:
        a, b: Medians.
        counts: Values of A and of B.
        of_rounds: Whether a value is a round; else it is a request, and what differs between
            rounds is not in the interval.
        ratio: b / a; None where a is 0.
        low, high: Of the ratio, with a confidence of 95 %; None without an interval.
        verdict: "faster", "slower", "no difference shown" or "too few rounds", of B. Requests of
            one round share what the machine did meanwhile: by their interval equal systems often
            differ.
    """

    metric: str
    a: float
    b: float
    counts: tuple[int, int]
    of_rounds: bool
    ratio: float | None
    low: float | None
    high: float | None
    verdict: str


def compare(side_a: Sequence[Round], side_b: Sequence[Round]) -> list[Comparison]:
    """All metrics that both sides have."""
    names = dict.fromkeys(metric for each in side_a for metric in each)
    found = []
    for metric in names:
        a, b = _by_round(side_a, metric), _by_round(side_b, metric)
        if a and b:
            found.append(_compare(metric, a, b))
    return found


def _by_round(side: Sequence[Round], metric: Metric) -> list[list[float]]:
    return [each[metric] for each in side if each.get(metric)]


def _compare(metric: Metric, a: list[list[float]], b: list[list[float]]) -> Comparison:
    of_rounds = min(len(a), len(b)) >= LEAST_VALUES or metric.is_rate
    values_a, values_b = (_medians(a), _medians(b)) if of_rounds else ([*chain(*a)], [*chain(*b)])
    ratio, low, high = interval(values_a, values_b)
    median_a, median_b = float(np.median(values_a)), float(np.median(values_b))
    return Comparison(
        metric.name,
        median_a,
        median_b,
        (len(values_a), len(values_b)),
        of_rounds,
        ratio,
        low,
        high,
        _verdict(low, high, is_rate=metric.is_rate) if of_rounds else TOO_FEW,
    )


def _medians(side: list[list[float]]) -> list[float]:
    return [float(np.median(each)) for each in side]


def interval(
    a: Sequence[float], b: Sequence[float]
) -> tuple[float | None, float | None, float | None]:
    """median(b) / median(a) and its percentile bootstrap interval; None for what has none."""
    if not np.median(a) > 0:
        return None, None, None
    ratio = float(np.median(b) / np.median(a))
    if min(len(a), len(b)) < LEAST_VALUES:
        return ratio, None, None
    if len(set(a)) == len(set(b)) == 1:  # scipy warns of what does not vary
        return ratio, ratio, ratio
    from scipy.stats import bootstrap  # slow to import

    found = bootstrap(
        (a, b),
        _ratio_of_medians,
        n_resamples=_RESAMPLES,
        method="percentile",
        confidence_level=CONFIDENCE,
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return ratio, None, None
    return ratio, float(found.low), float(found.high)


def _ratio_of_medians(
    a: NDArray[np.float64], b: NDArray[np.float64], axis: int = -1
) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: NDArray[np.float64] = np.median(b, axis=axis) / np.median(a, axis=axis)
    return ratio


def _verdict(low: float | None, high: float | None, *, is_rate: bool) -> str:
    if low is None or high is None:
        return TOO_FEW
    if low <= 1 <= high:
        return "no difference shown"
    return "faster" if (low > 1) == is_rate else "slower"
