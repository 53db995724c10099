"""What a request does to its logits before the choice; docs/sampling.md has the order and why."""

import math

import numpy as np
import torch

from lm_worker.plan import SamplingState


def apply_logit_processors(
    row: torch.Tensor, spec: SamplingState, tokens: int, allowed: torch.Tensor | None
) -> None:
    """Change `row` [vocabulary], in single precision, in place.

    Columns from `tokens` on are padding and cannot be chosen. `allowed` [tokens] is what the
    request's grammar lets through, None without one.
    """
    rules = spec.rules
    row[tokens:] = -math.inf
    if rules.logit_bias:
        biased, biases = zip(*rules.logit_bias, strict=True)
        row[_ids(biased, row)] += torch.tensor(biases, device=row.device)
    if spec.seen:
        seen = _ids(spec.seen, row)
        scores, factor = row[seen], rules.repetition_penalty
        row[seen] = torch.where(scores > 0, scores / factor, scores * factor)
    if spec.answer and rules.counts_answer:
        ids, counts = np.unique(spec.answer, return_counts=True)
        taken = counts * rules.frequency_penalty + rules.presence_penalty
        row[torch.from_numpy(ids).to(row.device)] -= torch.from_numpy(taken).to(row)
    if spec.banned:
        row[_ids(spec.banned, row)] = -math.inf
    if allowed is not None:
        row[:tokens].masked_fill_(~allowed.to(row.device), -math.inf)


def _ids(values: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64, device=like.device)
