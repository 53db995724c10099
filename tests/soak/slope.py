"""Whether a gauge goes up over time."""

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_SETTLED = 0.25  # the part of a run in which caches fill; it is left out
_PARTS = 6


@dataclass(frozen=True, slots=True)
class Trend:
    """Of one gauge over a run, without its beginning."""

    level: float  # median
    growth: float  # by the fitted line, from the first to the last sample
    is_rising: bool


def trend(times_s: Sequence[float], values: Sequence[float], tolerance: float) -> Trend:
    """Fit a line by Theil and Sen, which single peaks do not move.

    A gauge is rising when the line grows by more than `tolerance` (a share of the level) and the
    median of each sixth of the run is above the one before in all cases but one: a leak climbs,
    noise and a cache that is full do not.
    """
    settled = [
        (at, value)
        for at, value in zip(times_s, values, strict=True)
        if at >= times_s[0] + _SETTLED * (times_s[-1] - times_s[0])
    ]
    if len(settled) < 2 * _PARTS:
        raise ValueError(f"{len(settled)} samples are too few to see a trend")
    step = max(1, len(settled) // 200)  # pairs are compared: 200 samples are enough
    points = settled[::step]
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for number, earlier in enumerate(points)
        for later in points[number + 1 :]
    ]
    level = statistics.median(value for _, value in settled)
    growth = statistics.median(slopes) * (settled[-1][0] - settled[0][0])
    size = len(settled) // _PARTS
    medians = [
        statistics.median(value for _, value in settled[part * size : (part + 1) * size])
        for part in range(_PARTS)
    ]
    climbs = sum(b > a for a, b in itertools.pairwise(medians))
    return Trend(level, growth, growth > tolerance * level and climbs >= _PARTS - 2)
