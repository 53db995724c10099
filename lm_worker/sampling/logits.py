"""Logit processors, applied before sampling; docs/sampling.md has their order and the reasons."""

import math

import numpy as np
import torch

from lm_worker.plan import SamplingState


def apply_logit_processors(
    logits: torch.Tensor, state: SamplingState, num_tokens: int, allowed: torch.Tensor | None
) -> None:
    """Change one token's float32 `logits` [vocabulary] in place.

    Columns past `num_tokens` are padding and are masked. `allowed` [tokens] is the mask of the
    request's grammar, None without one.
    """
    params = state.params
    logits[num_tokens:] = -math.inf
    if params.logit_bias:
        biased, biases = zip(*params.logit_bias, strict=True)
        logits[_ids(biased, logits)] += torch.tensor(biases, device=logits.device)
    if state.penalized_ids:
        penalized = _ids(state.penalized_ids, logits)
        scores, factor = logits[penalized], params.repetition_penalty
        logits[penalized] = torch.where(scores > 0, scores / factor, scores * factor)
    if state.output_ids and params.penalizes_output:
        ids, counts = np.unique(state.output_ids, return_counts=True)
        penalties = counts * params.frequency_penalty + params.presence_penalty
        logits[torch.from_numpy(ids).to(logits.device)] -= torch.from_numpy(penalties).to(logits)
    if state.forbidden_ids:
        logits[_ids(state.forbidden_ids, logits)] = -math.inf
    if allowed is not None:
        logits[:num_tokens].masked_fill_(~allowed.to(logits.device), -math.inf)


def _ids(values: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64, device=like.device)
