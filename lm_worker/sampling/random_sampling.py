"""Random sampling: on the host, in float64, one request at a time.

So a request gets the same token in every batch. The device finds the top candidates.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from glm4v.device.candidates import Candidates
from lm_worker.plan import NO_TOKEN, SamplingParams, SamplingState

# This many top tokens are copied to the host. If the kept tokens may not all be among them, the
# whole vocabulary is. With top_p 0.8 a trained model nearly always keeps fewer.
CANDIDATES = 256

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # SplitMix64's increment

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]


def random_sample(candidates: Candidates, states: Sequence[SamplingState]) -> list[int]:
    """A token for each of the candidates' rows; NO_TOKEN for non-finite logits."""
    sampled = []
    for row, state in enumerate(states):
        if not math.isfinite(candidates.totals[row]):
            sampled.append(NO_TOKEN)
            continue
        kept_ids, weights = candidates.ids[row], np.exp(candidates.scores[row])
        kept = _candidates_in_topk(weights, candidates.totals[row], state.params)
        if kept is None:
            weights = np.exp(candidates.all_scores(row))
            kept_ids, kept = np.arange(len(weights)), _candidates_in_all(weights, state.params)
        sampled.append(_gumbel_argmax(kept_ids[kept], weights[kept], state))
    return sampled


def _candidates_in_topk(weights: _Floats, total: float, params: SamplingParams) -> _Ints | None:
    """Indices of the top tokens that are kept; None if other tokens may be kept too.

    `weights` are those of the top tokens, by id; `total` is the sum over all tokens.
    """
    if params.top_k > len(weights):
        return None
    ordered = -np.sort(-weights)
    if ordered[-1] == 0.0:
        return _candidates_in_all(weights, params)  # no other token has any weight
    kept = ordered
    if params.top_k:
        kept = ordered[: params.top_k]
        total = float(kept.sum())
        if kept[-1] <= ordered[-1]:
            return None  # tokens outside may have the same weight
    if params.typical_p < 1.0:
        return _candidates_in_all(weights, params) if params.top_k else None
    count = len(kept) if params.top_p >= 1.0 else _nucleus_size(kept, params.top_p * total)
    if params.min_p:
        count = min(count, int((kept >= params.min_p * kept[0]).sum()))
    if ordered[count - 1] <= ordered[-1]:
        return None
    return _largest(weights, ordered[count - 1], count)


def _candidates_in_all(weights: _Floats, params: SamplingParams) -> _Ints:
    """Indices of the tokens that are kept, by the `weights` of all tokens."""
    kept = np.flatnonzero(weights)
    if 0 < params.top_k < len(kept):
        ordered = np.partition(weights[kept], -params.top_k)
        kept = kept[_largest(weights[kept], ordered[-params.top_k], params.top_k)]
    if params.typical_p < 1.0:
        kept = kept[_typical(weights[kept], params.typical_p)]
    if params.top_p < 1.0:
        kept = kept[_nucleus(weights[kept], params.top_p)]
    if params.min_p:
        kept = kept[weights[kept] >= params.min_p * weights[kept].max()]
    return kept


def _typical(weights: _Floats, typical_p: float) -> _Ints:
    """Indices of the tokens with surprisal closest to the entropy that sum to `typical_p`.

    Locally typical sampling, arXiv 2202.00666.
    """
    probabilities = weights / weights.sum()
    surprisal = -np.log(probabilities)
    distance = np.abs(surprisal - (probabilities * surprisal).sum())
    near = _nearest(distance, probabilities, typical_p)
    order = near[np.argsort(distance[near], kind="stable")]  # ties by lower id
    return np.sort(order[: _nucleus_size(probabilities[order], typical_p)])


def _nearest(distance: _Floats, probabilities: _Floats, goal: float) -> _Ints:
    """Indices, ascending, of a superset of the nearest tokens that reach `goal`.

    Sorting this set is faster than sorting the whole vocabulary.
    """
    count = 1024
    while count < len(distance):
        near = np.flatnonzero(distance <= np.partition(distance, count)[count])
        if probabilities[near].sum() > goal:
            return near
        count *= 8
    return np.arange(len(distance))


def _nucleus(weights: _Floats, top_p: float) -> _Ints:
    """Indices of the largest weights that sum to `top_p` of the total.

    A histogram finds the bin in which the cumulative sum reaches the goal; only that bin is sorted.
    """
    # The upper bits of a positive float are monotonic: the exponent and 8 bits of the mantissa.
    bins = weights.astype(np.float32).view(np.int32) >> 15
    reached = np.cumsum(np.bincount(bins, weights)[::-1])  # largest bin first
    goal = top_p * reached[-1]
    before = int(np.searchsorted(reached, goal))
    last = len(reached) - 1 - before
    edge = np.flatnonzero(bins == last)
    ordered = -np.sort(-weights[edge])
    count = _nucleus_size(ordered, goal - (reached[before - 1] if before else 0.0))
    edge = edge[_largest(weights[edge], ordered[count - 1], count)]
    return np.sort(np.concatenate([np.flatnonzero(bins > last), edge]))


def _nucleus_size(ordered: _Floats, goal: float) -> int:
    """How many weights, largest first, sum to `goal`; at least one."""
    return min(int(np.searchsorted(np.cumsum(ordered), goal)) + 1, len(ordered))


def _largest(weights: _Floats, least: float, count: int) -> _Ints:
    """Indices of the `count` largest weights, the smallest of them `least`; ties by lower id."""
    above = np.flatnonzero(weights > least)
    tied = np.flatnonzero(weights == least)[: count - len(above)]
    return np.sort(np.concatenate([above, tied]))


def _gumbel_argmax(ids: _Ints, weights: _Floats, state: SamplingState) -> int:
    """Sample one of `ids` with probabilities proportional to `weights`.

    The Gumbel-max trick: an exponential variate with rate `weight` for each token, and the smallest
    wins. So rounding of the weights changes the result only when two candidates tie to within
    rounding error; inverting a cumulative sum would shift every boundary.
    """
    return int(ids[np.argmin(_exponential_noise(state, ids) / weights)])


def _exponential_noise(state: SamplingState, ids: _Ints) -> _Floats:
    """Exponential variates of mean 1 that depend only on seed, index and token id.

    Both generators are counter-based: Philox gives the step's state, SplitMix64 one number per id.
    """
    step = np.random.Philox(key=state.params.seed, counter=state.index).random_raw()
    mixed = np.uint64(step) + (ids.astype(np.uint64) + np.uint64(1)) * _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    uniform: _Floats = ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return -np.log(uniform)
