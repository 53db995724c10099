"""Samples tokens from logits.

A token depends only on the seed, its index in the output, the logits, and the grammar if any.
"""

from collections.abc import Mapping, Sequence

import torch

from glm4v.device import Device
from lm_worker.plan import NO_TOKEN, SampledToken, SamplingState
from lm_worker.sampling.logits import apply_logit_processors
from lm_worker.sampling.random_sampling import CANDIDATES, random_sample


def sample(
    device: Device,
    logits: torch.Tensor,
    states: Sequence[SamplingState],
    num_tokens: int,
    allowed: Mapping[int, torch.Tensor] | None = None,
) -> list[SampledToken]:
    """One token for each row of `logits` [states, vocabulary]; NO_TOKEN for non-finite logits.

    Columns past `num_tokens` are padding: never sampled, but included in plain greedy argmax as in
    the reference. `allowed` has, by row, the mask of a grammar, [tokens] each.
    """
    chosen = _choose(
        device, _processed(logits, states, num_tokens, allowed or {}), states, num_tokens
    )
    sampled = [SampledToken(token_id) for token_id in chosen]
    reported = [
        row
        for row, state in enumerate(states)
        if state.params.want_logprobs and chosen[row] != NO_TOKEN
    ]
    if reported:
        most = max(states[row].params.top_logprobs for row in reported)
        ids = [chosen[row] for row in reported]
        for row, each in zip(reported, token_logprobs(logits[reported], ids, most), strict=True):
            token_id, logprob, top = each
            top = top[: states[row].params.top_logprobs]
            sampled[row] = SampledToken(token_id, logprob, top)
    return sampled


def token_logprobs(
    logits: torch.Tensor, token_ids: Sequence[int], top: int
) -> list[tuple[int, float, tuple[tuple[int, float], ...]]]:
    """Each token with its log-probability and the `top` most probable ones, best first.

    `token_ids` has one token for each row of `logits` [tokens, vocabulary].
    """
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    top_logprobs, top_ids = (part.tolist() for part in logprobs.topk(top, dim=-1))
    own_ids = torch.tensor(list(token_ids), device=logits.device)
    own: list[float] = logprobs.gather(1, own_ids[:, None]).flatten().tolist()
    return [
        (token_id, own[at], tuple(zip(top_ids[at], top_logprobs[at], strict=True)))
        for at, token_id in enumerate(token_ids)
    ]


def _processed(
    logits: torch.Tensor,
    states: Sequence[SamplingState],
    num_tokens: int,
    allowed: Mapping[int, torch.Tensor],
) -> torch.Tensor:
    """The logits after all processors; the same tensor if no request has any."""
    changed = [row for row, state in enumerate(states) if not state.is_plain]
    if changed:
        logits = logits.to(torch.float32, copy=True)
        for row in changed:
            apply_logit_processors(logits[row], states[row], num_tokens, allowed.get(row))
    return logits


def _choose(
    device: Device, logits: torch.Tensor, states: Sequence[SamplingState], num_tokens: int
) -> list[int]:
    random = [row for row, state in enumerate(states) if state.params.temperature > 0.0]
    if not random:
        return _greedy(device, logits)
    chosen_states = [states[row] for row in random]
    candidates = device.candidates(
        logits[random, :num_tokens].float(),
        [state.params.temperature for state in chosen_states],
        CANDIDATES,
    )
    sampled = random_sample(candidates, chosen_states)
    chosen = dict(zip(random, sampled, strict=True))
    greedy = [row for row in range(len(states)) if row not in chosen]
    if greedy:
        chosen |= zip(greedy, _greedy(device, logits[greedy]), strict=True)
    return [chosen[row] for row in range(len(states))]


def _greedy(device: Device, logits: torch.Tensor) -> list[int]:
    ids: list[int] = device.greedy(logits).tolist()
    return [NO_TOKEN if token_id < 0 else token_id for token_id in ids]
