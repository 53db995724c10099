"""Learns what more rows cost a step, from the durations of steps. No device is assumed."""

import math
from dataclasses import dataclass

_LEVEL_RATE = 0.2  # weight of a step in the present speed
_KEPT = 0.99  # weight of what was known a step ago in a ratio, which changes with the kind of load
_MAX_OUTLIER = 3.0  # a step counts as at most this many times what was expected
_SHORTEST_S = 1e-6
_UNKNOWN = 0.02  # of a step: what a row costs until longer steps were seen


@dataclass(slots=True)
class _Known:
    """Steps of about the same number of rows."""

    rows: float  # their average
    ratio: float  # their duration in units of the level
    weight: float  # steps that they stand for, at the step `at`
    at: int


class RowCosts:
    """The duration of a step by its rows: a level, which follows the machine, times a ratio.

    A machine that others use, or a context that grows, changes the duration of all steps alike. So
    steps that were seen long ago still tell how they compare with those of now.
    """

    def __init__(self) -> None:
        self._level = 0.0  # seconds
        self._known: dict[int, _Known] = {}  # by `_size`
        self._steps = 0

    def observe(self, rows: int, seconds: float) -> None:
        """Learn from a step of decodes alone."""
        self._steps += 1
        size = _size(rows)
        seconds = max(seconds, _SHORTEST_S)
        known = self._known.get(size)
        if known is None:
            self._level = self._level or seconds
            self._known[size] = _Known(rows, seconds / self._level, 1.0, self._steps)
            return
        seconds = min(seconds, _MAX_OUTLIER * known.ratio * self._level)
        self._level += _LEVEL_RATE * (seconds / known.ratio - self._level)
        known.weight = known.weight * _KEPT ** (self._steps - known.at) + 1.0
        known.at = self._steps
        rate = 1.0 / known.weight
        known.ratio += rate * (seconds / self._level - known.ratio)
        known.rows += rate * (rows - known.rows)

    def of_another(self, rows: int) -> float:
        """What one row more costs a step of `rows` rows, as a share of the step."""
        size = _size(rows)
        here = self._known.get(size)
        above = min((known for known in self._known if known > size), default=None)
        if here is None or above is None:
            return _UNKNOWN
        there = self._known[above]
        return max(0.0, (there.ratio / here.ratio - 1.0) / (there.rows - here.rows))


def _size(rows: int) -> int:
    """Two sizes for each doubling."""
    return round(2.0 * math.log2(rows))
