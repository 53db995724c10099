"""Draws tokens: on the host, in double precision, one row at a time, so that a row gives the same
token in every batch. The best candidates are found on the device.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from lm_worker.plan import NO_TOKEN, SamplingParams, SamplingState

# Rows are drawn from this many best tokens when the wanted ones are certainly among them, else
# from all. With top_p 0.8 a trained model nearly always keeps fewer.
CANDIDATES = 256

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # SplitMix64's step

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]


def draw(logits: torch.Tensor, specs: Sequence[SamplingState]) -> list[int]:
    """A token for each row of `logits` [rows, tokens]; NO_TOKEN where they are no numbers."""
    tiny = torch.finfo(torch.float32).tiny
    temperatures = [max(spec.rules.temperature, tiny) for spec in specs]
    divisor = torch.tensor(temperatures, device=logits.device)[:, None]
    # Zero for the best token, so that no temperature, however small, gives infinity.
    scores = (logits - logits.amax(dim=-1, keepdim=True)) / divisor
    # Row by row: sums of a whole batch would be rounded differently from those of one row.
    totals = torch.stack([row.exp().sum() for row in scores]).tolist()
    best, ids = scores.topk(min(CANDIDATES, scores.shape[1]), dim=-1)
    ids, by_id = ids.sort(dim=-1)
    candidates = best.gather(1, by_id).double().cpu().numpy()
    candidate_ids = ids.cpu().numpy()
    draws = []
    for row, spec in enumerate(specs):
        if not math.isfinite(totals[row]):
            draws.append(NO_TOKEN)
            continue
        kept_ids, weights = candidate_ids[row], np.exp(candidates[row])
        kept = _candidates_in_topk(weights, totals[row], spec.rules)
        if kept is None:
            weights = np.exp(scores[row].double().cpu().numpy())
            kept_ids, kept = np.arange(len(weights)), _kept_of_all(weights, spec.rules)
        draws.append(_gumbel_argmax(kept_ids[kept], weights[kept], spec))
    return draws


def _candidates_in_topk(weights: _Floats, total: float, rules: SamplingParams) -> _Ints | None:
    """Which of the best tokens' `weights` are kept; None when others may be among the kept.

    `total` is the sum of the weights of all tokens.
    """
    if rules.top_k > len(weights):
        return None
    ordered = -np.sort(-weights)
    if ordered[-1] == 0.0:
        return _kept_of_all(weights, rules)  # no other token has any weight
    kept = ordered
    if rules.top_k:
        kept = ordered[: rules.top_k]
        total = float(kept.sum())
        if kept[-1] <= ordered[-1]:
            return None  # tokens of the same weight may stand outside
    if rules.typical_p < 1.0:
        return _kept_of_all(weights, rules) if rules.top_k else None
    count = len(kept) if rules.top_p >= 1.0 else _nucleus_size(kept, rules.top_p * total)
    if rules.min_p:
        count = min(count, int((kept >= rules.min_p * kept[0]).sum()))
    if ordered[count - 1] <= ordered[-1]:
        return None
    return _best(weights, ordered[count - 1], count)


def _kept_of_all(weights: _Floats, rules: SamplingParams) -> _Ints:
    """Which of all tokens' `weights` are kept."""
    kept = np.flatnonzero(weights)
    if 0 < rules.top_k < len(kept):
        ordered = np.partition(weights[kept], -rules.top_k)
        kept = kept[_best(weights[kept], ordered[-rules.top_k], rules.top_k)]
    if rules.typical_p < 1.0:
        kept = kept[_typical(weights[kept], rules.typical_p)]
    if rules.top_p < 1.0:
        kept = kept[_nucleus(weights[kept], rules.top_p)]
    if rules.min_p:
        kept = kept[weights[kept] >= rules.min_p * weights[kept].max()]
    return kept


def _typical(weights: _Floats, typical_p: float) -> _Ints:
    """The places whose information is nearest to the expected one and that reach `typical_p`."""
    shares = weights / weights.sum()
    information = -np.log(shares)
    distance = np.abs(information - (shares * information).sum())
    near = _nearest(distance, shares, typical_p)
    order = near[np.argsort(distance[near], kind="stable")]  # ties by lower id
    return np.sort(order[: _nucleus_size(shares[order], typical_p)])


def _nearest(distance: _Floats, shares: _Floats, goal: float) -> _Ints:
    """Places, ascending, of the nearest that reach `goal` and some more: all need no sorting."""
    count = 1024
    while count < len(distance):
        near = np.flatnonzero(distance <= np.partition(distance, count)[count])
        if shares[near].sum() > goal:
            return near
        count *= 8
    return np.arange(len(distance))


def _nucleus(weights: _Floats, top_p: float) -> _Ints:
    """The places of the best weights that reach the share `top_p` of all, without sorting all.

    Weights fall into classes of nearly equal ones; only the class the sum ends in is sorted.
    """
    # The upper bits of a positive float grow with it: all of the exponent, 8 of the mantissa.
    classes = weights.astype(np.float32).view(np.int32) >> 15
    reached = np.cumsum(np.bincount(classes, weights)[::-1])  # best class first
    goal = top_p * reached[-1]
    before = int(np.searchsorted(reached, goal))
    last = len(reached) - 1 - before
    edge = np.flatnonzero(classes == last)
    ordered = -np.sort(-weights[edge])
    count = _nucleus_size(ordered, goal - (reached[before - 1] if before else 0.0))
    edge = edge[_best(weights[edge], ordered[count - 1], count)]
    return np.sort(np.concatenate([np.flatnonzero(classes > last), edge]))


def _nucleus_size(ordered: _Floats, goal: float) -> int:
    """How many of the weights, best first, it takes to reach the sum `goal`; at least one."""
    return min(int(np.searchsorted(np.cumsum(ordered), goal)) + 1, len(ordered))


def _best(weights: _Floats, least: float, count: int) -> _Ints:
    """The places of the `count` best weights, of which `least` is the last; ties by lower id."""
    above = np.flatnonzero(weights > least)
    tied = np.flatnonzero(weights == least)[: count - len(above)]
    return np.sort(np.concatenate([above, tied]))


def _gumbel_argmax(ids: _Ints, weights: _Floats, spec: SamplingState) -> int:
    """Draw one of `ids` with probabilities proportional to `weights`.

    Each token arrives after a time drawn for it alone, exponential with its weight as the rate; the
    first one wins. (Gumbel-max in other words.) A weight that is rounded differently changes the
    choice only where two arrive together, while of cumulated weights it would move every bound.
    """
    return int(ids[np.argmin(_exponential_noise(spec, ids) / weights)])


def _exponential_noise(spec: SamplingState, ids: _Ints) -> _Floats:
    """Times with mean 1 that depend on seed, index and token id alone.

    Philox gives the step's state and SplitMix64 from there one number for each id, both counters.
    """
    state = np.random.Philox(key=spec.rules.seed, counter=spec.index).random_raw()
    mixed = np.uint64(state) + (ids.astype(np.uint64) + np.uint64(1)) * _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    uniform: _Floats = ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return -np.log(uniform)
