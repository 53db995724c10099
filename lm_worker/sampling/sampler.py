"""Chooses tokens from logits: a choice depends on seed, index and logits alone, and on the grammar
where there is one.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from lm_worker.plan import NO_TOKEN, SamplingState
from lm_worker.sampling.logits import apply_logit_processors
from lm_worker.sampling.random_sampling import draw


class Choice(NamedTuple):
    """The token for one row, with what was asked to be reported."""

    token_id: int  # or NO_TOKEN
    logprob: float | None
    top: tuple[tuple[int, float], ...]  # best first


def sample(
    logits: torch.Tensor,
    specs: Sequence[SamplingState],
    tokens: int,
    allowed: Mapping[int, torch.Tensor] | None = None,
) -> list[Choice]:
    """One token for each row of `logits` [rows, vocabulary]; NO_TOKEN where they are no numbers.

    `tokens` is how many leading columns stand for tokens: the padding behind them is never chosen,
    but for plain greedy choice, which looks at all columns, as the original implementation does.
    `allowed` has, by row, what a grammar lets through, [tokens] each.
    """
    chosen = _choose(_shaped(logits, specs, tokens, allowed or {}), specs, tokens)
    choices = [Choice(token_id, None, ()) for token_id in chosen]
    reported = [
        row
        for row, spec in enumerate(specs)
        if spec.rules.want_logprobs and chosen[row] != NO_TOKEN
    ]
    if reported:
        most = max(specs[row].rules.top_logprobs for row in reported)
        ids = [chosen[row] for row in reported]
        for row, each in zip(reported, report(logits[reported], ids, most), strict=True):
            token_id, logprob, top = each
            choices[row] = Choice(token_id, logprob, top[: specs[row].rules.top_logprobs])
    return choices


def report(
    logits: torch.Tensor, token_ids: Sequence[int], top: int
) -> list[tuple[int, float, tuple[tuple[int, float], ...]]]:
    """One token for each row of `logits` [rows, vocabulary], its log-probability, and the `top`
    most probable ones, best first.
    """
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    top_logprobs, top_ids = (part.tolist() for part in logprobs.topk(top, dim=-1))
    own_ids = torch.tensor(list(token_ids), device=logits.device)
    own: list[float] = logprobs.gather(1, own_ids[:, None]).flatten().tolist()
    return [
        (token_id, own[at], tuple(zip(top_ids[at], top_logprobs[at], strict=True)))
        for at, token_id in enumerate(token_ids)
    ]


def _shaped(
    logits: torch.Tensor,
    specs: Sequence[SamplingState],
    tokens: int,
    allowed: Mapping[int, torch.Tensor],
) -> torch.Tensor:
    """The logits to choose from; the same ones when nobody wants others."""
    changed = [row for row, spec in enumerate(specs) if not spec.is_plain]
    if changed:
        logits = logits.to(torch.float32, copy=True)
        for row in changed:
            apply_logit_processors(logits[row], specs[row], tokens, allowed.get(row))
    return logits


def _choose(logits: torch.Tensor, specs: Sequence[SamplingState], tokens: int) -> list[int]:
    drawn = [row for row, spec in enumerate(specs) if spec.rules.temperature > 0.0]
    if not drawn:
        return _best(logits)
    draws = draw(logits[drawn, :tokens].float(), [specs[row] for row in drawn])
    chosen = dict(zip(drawn, draws, strict=True))
    greedy = [row for row in range(len(specs)) if row not in chosen]
    if greedy:
        chosen |= zip(greedy, _best(logits[greedy]), strict=True)
    return [chosen[row] for row in range(len(specs))]


def _best(logits: torch.Tensor) -> list[int]:
    # The best of a row with a NaN is the NaN.
    if logits.device.type == "cpu":  # torch's own takes twenty times as long
        rows = logits.float().numpy()
        best = rows.argmax(-1)
        sound = np.isfinite(rows[np.arange(len(rows)), best])
        return [int(at) if is_sound else NO_TOKEN for at, is_sound in zip(best, sound, strict=True)]
    found = logits.argmax(dim=-1, keepdim=True)
    finite = logits.gather(1, found).isfinite()
    ids: list[int] = found.masked_fill(~finite, NO_TOKEN).flatten().tolist()
    return ids
