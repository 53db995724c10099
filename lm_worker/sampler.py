"""Chooses tokens from logits, keeping no state: a draw depends on seed, index and logits alone.

Greedy choices and the best candidates are found on the device. Drawing happens on the host in
double precision, one row at a time, so that it gives the same token in every batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from lm_worker.plan import SampleSpec

# Rows are drawn from this many best tokens when the wanted ones are certainly among them, else
# from all. With top_p 0.8 a trained model nearly always keeps fewer.
_CANDIDATES = 256

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]


class Choice(NamedTuple):
    """The token for one row, with what was asked to be reported."""

    token_id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]  # best first


def sample(logits: torch.Tensor, specs: Sequence[SampleSpec], tokens: int) -> list[Choice]:
    """One token for each row of `logits` [rows, vocabulary].

    `tokens` is how many leading columns stand for tokens: the padding behind them is never drawn.
    Greedy choice looks at all columns, as the original implementation does.
    """
    chosen = _choose(logits, specs, tokens)
    choices = [Choice(token_id, None, ()) for token_id in chosen]
    reported = [row for row, spec in enumerate(specs) if spec.want_logprobs]
    if reported:
        most = max(specs[row].top_logprobs for row in reported)
        logprobs = torch.log_softmax(logits[reported].float(), dim=-1)
        top_logprobs, top_ids = (part.tolist() for part in logprobs.topk(most, dim=-1))
        own = logprobs.gather(1, _column([chosen[row] for row in reported], logits)).tolist()
        for at, row in enumerate(reported):
            top = tuple(zip(top_ids[at], top_logprobs[at], strict=True))
            choices[row] = Choice(chosen[row], own[at][0], top[: specs[row].top_logprobs])
    return choices


def _choose(logits: torch.Tensor, specs: Sequence[SampleSpec], tokens: int) -> list[int]:
    if any(spec.repetition_penalty != 1.0 for spec in specs):
        logits = _penalised(logits, specs)
    drawn = [row for row, spec in enumerate(specs) if spec.temperature > 0.0]
    if not drawn:
        best: list[int] = logits.argmax(dim=-1).tolist()
        return best
    draws = _draw(logits[drawn, :tokens].float(), [specs[row] for row in drawn])
    chosen = dict(zip(drawn, draws, strict=True))
    greedy = [row for row in range(len(specs)) if row not in chosen]
    if greedy:
        chosen |= zip(greedy, logits[greedy].argmax(dim=-1).tolist(), strict=True)
    return [chosen[row] for row in range(len(specs))]


def _penalised(logits: torch.Tensor, specs: Sequence[SampleSpec]) -> torch.Tensor:
    """Divide positive and multiply negative logits of seen tokens."""
    logits = logits.clone()
    for row, spec in zip(logits, specs, strict=True):
        if spec.repetition_penalty != 1.0 and spec.seen:
            seen = torch.tensor(spec.seen, device=row.device)
            scores = row[seen]
            factor = spec.repetition_penalty
            row[seen] = torch.where(scores > 0, scores / factor, scores * factor)
    return logits


def _draw(logits: torch.Tensor, specs: Sequence[SampleSpec]) -> list[int]:
    """A token for each row of `logits` [rows, tokens]."""
    tiny = torch.finfo(torch.float32).tiny
    temperatures = _column([max(spec.temperature, tiny) for spec in specs], logits)
    # Zero for the best token, so that no temperature, however small, gives infinity.
    scores = (logits - logits.amax(dim=-1, keepdim=True)) / temperatures
    # Row by row: sums of a whole batch would be rounded differently from those of one row.
    totals = torch.stack([row.exp().sum() for row in scores]).tolist()
    best, ids = scores.topk(min(_CANDIDATES, scores.shape[1]), dim=-1)
    ids, by_id = ids.sort(dim=-1)
    candidates = best.gather(1, by_id).double().cpu().numpy()
    candidate_ids = ids.cpu().numpy()
    draws = []
    for row, spec in enumerate(specs):
        kept_ids, weights = candidate_ids[row], np.exp(candidates[row])
        kept = _kept_of_best(weights, totals[row], spec)
        if kept is None:
            weights = np.exp(scores[row].double().cpu().numpy())
            kept_ids, kept = np.arange(len(weights)), _kept_of_all(weights, spec)
        draws.append(_inverse(kept_ids[kept], weights[kept], spec))
    return draws


def _kept_of_best(weights: _Floats, total: float, spec: SampleSpec) -> _Ints | None:
    """Which of the best tokens' `weights` are kept; None when others may be among the kept.

    `total` is the sum of the weights of all tokens.
    """
    if spec.top_k > len(weights):
        return None
    ordered = -np.sort(-weights)
    kept = ordered
    if spec.top_k:
        kept = ordered[: spec.top_k]
        total = float(kept.sum())
    count = len(kept) if spec.top_p >= 1.0 else _reaching(kept, spec.top_p * total)
    if ordered[count - 1] <= ordered[-1]:
        return None  # tokens of the same weight may stand outside
    return _best(weights, ordered[count - 1], count)


def _kept_of_all(weights: _Floats, spec: SampleSpec) -> _Ints:
    """Which of all tokens' `weights` are kept."""
    kept = np.arange(len(weights))
    if 0 < spec.top_k < len(weights):
        kept = _best(weights, np.partition(weights, -spec.top_k)[-spec.top_k], spec.top_k)
    if spec.top_p < 1.0:
        kept = kept[_nucleus(weights[kept], spec.top_p)]
    return kept


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
    count = _reaching(ordered, goal - (reached[before - 1] if before else 0.0))
    edge = edge[_best(weights[edge], ordered[count - 1], count)]
    return np.sort(np.concatenate([np.flatnonzero(classes > last), edge]))


def _reaching(ordered: _Floats, goal: float) -> int:
    """How many of the weights, best first, it takes to reach the sum `goal`; at least one."""
    return min(int(np.searchsorted(np.cumsum(ordered), goal)) + 1, len(ordered))


def _best(weights: _Floats, least: float, count: int) -> _Ints:
    """The places of the `count` best weights, of which `least` is the last; ties by lower id."""
    above = np.flatnonzero(weights > least)
    tied = np.flatnonzero(weights == least)[: count - len(above)]
    return np.sort(np.concatenate([above, tied]))


def _inverse(ids: _Ints, weights: _Floats, spec: SampleSpec) -> int:
    """Draw one of `ids`, ascending, with probabilities proportional to `weights`."""
    bound = np.cumsum(weights)
    place = np.searchsorted(bound, _uniform(spec) * bound[-1], side="right")
    return int(ids[min(int(place), len(ids) - 1)])


def _uniform(spec: SampleSpec) -> float:
    """A number in [0, 1) that depends on seed and index alone: 53 bits of Philox."""
    bits = np.random.Philox(key=spec.seed, counter=spec.index).random_raw()
    return float(int(bits) >> 11) * 2.0**-53


def _column(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    """[len(values), 1] on the device of `like`; whole numbers stay whole."""
    return torch.tensor(values, device=like.device)[:, None]
