"""Every parameter against its definition in float64."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glm4v.device import DeviceOptions, open_device
from lm_worker.plan import NO_TOKEN, SamplingParams, SamplingState
from lm_worker.sampling.random_sampling import CANDIDATES
from lm_worker.sampling.sampler import sample

Floats = npt.NDArray[np.float64]
TOKENS, PADDED = 300, 308  # more than the candidates
CPU = open_device(DeviceOptions("cpu", "float32"))
NEAR = (0.0, -1e-5, 1e-5)  # single precision may put a border this far away

ids = st.integers(0, TOKENS - 1)
params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 4.0]),
    top_k=st.sampled_from([0, 0, 1, 3, 40, CANDIDATES, 290]),
    top_p=st.sampled_from([0.2, 0.8, 0.99, 1.0, 1.0]),
    repetition_penalty=st.sampled_from([0.5, 1.0, 1.0, 1.5]),
    seed=st.integers(0, 2**64 - 1),
    typical_p=st.sampled_from([0.1, 0.6, 0.95, 1.0, 1.0]),
    min_p=st.sampled_from([0.0, 0.0, 0.01, 0.4, 1.0]),
    frequency_penalty=st.sampled_from([-2.0, 0.0, 0.0, 0.7, 2.0]),
    presence_penalty=st.sampled_from([-1.0, 0.0, 0.0, 1.5]),
    logit_bias=st.dictionaries(ids, st.sampled_from([-100.0, -1.5, 3.0, 100.0]), max_size=4).map(
        lambda biases: tuple(sorted(biases.items()))
    ),
)
specs = st.builds(
    SamplingState,
    params=params,
    index=st.integers(0, 10000),
    penalized_ids=st.lists(ids, unique=True, max_size=20).map(tuple),
    output_ids=st.lists(ids, max_size=20).map(lambda answer: (*answer, *answer[:7])),
    forbidden_ids=st.lists(ids, unique=True, max_size=5).map(tuple),
)


def shaped(logits: Floats, spec: SamplingState, allowed: npt.NDArray[np.bool_]) -> Floats:
    """The processed logits; -inf where a token is masked."""
    rule = spec.params
    scores: Floats = logits.copy()
    for token, bias in rule.logit_bias:
        scores[token] += bias
    for token in spec.penalized_ids:
        factor = rule.repetition_penalty
        scores[token] = scores[token] / factor if scores[token] > 0 else scores[token] * factor
    for token in set(spec.output_ids):
        scores[token] -= (
            spec.output_ids.count(token) * rule.frequency_penalty + rule.presence_penalty
        )
    scores[list(spec.forbidden_ids)] = -np.inf
    scores[:TOKENS][~allowed] = -np.inf
    scores[TOKENS:] = -np.inf
    return scores


def shares(scores: Floats, rule: SamplingParams, near: float) -> Floats:
    """Probabilities of all tokens when one is drawn."""
    weights = np.exp((scores - scores.max()) / rule.temperature)
    order = np.argsort(-weights, kind="stable")
    if rule.top_k:
        weights[order[rule.top_k :]] = 0
    share = normal(weights)
    if rule.typical_p < 1:
        information = -np.log(share, where=share > 0, out=np.full_like(share, np.inf))
        entropy = sum(p * i for p, i in zip(share, information, strict=True) if p > 0)
        share = reaching(share, np.argsort(np.abs(information - entropy)), rule.typical_p + near)
    if rule.top_p < 1:
        share = reaching(share, np.argsort(-share, kind="stable"), rule.top_p + near)
    if rule.min_p:
        share[share < min(rule.min_p + near, 1.0) * share.max()] = 0
    return normal(share)


def reaching(share: Floats, order: npt.NDArray[np.int64], goal: float) -> Floats:
    """The first in `order` that reach `goal` together, at least one; the others get nothing."""
    before = np.cumsum(share[order]) - share[order]
    kept = np.zeros_like(share)
    first = order[(before < goal) | (np.arange(len(order)) == 0)]
    kept[first] = share[first]
    return normal(kept)


def normal(weights: Floats) -> Floats:
    """The same in relation, with a sum of 1."""
    total: float = weights.sum()
    return weights / total


def expected(scores: Floats, spec: SamplingState) -> set[int]:
    """What may come out; more than one token where the draw lies on a border."""
    rule = spec.params
    if rule.temperature == 0.0:
        return set(np.flatnonzero(scores > scores.max() - 1e-5).tolist())
    arrivals = np.array([waiting_time(spec, token) for token in range(len(scores))])
    tokens = set()
    for near in NEAR:
        share = shares(scores, rule, near)
        times = np.divide(arrivals, share, where=share > 0, out=np.full_like(share, np.inf))
        tokens |= set(np.flatnonzero(times <= times.min() * (1 + 1e-4)).tolist())
    return tokens


def waiting_time(spec: SamplingState, token: int) -> float:
    """SplitMix64's output number `token` from the state that Philox gives, as a waiting time."""
    low = 2**64 - 1
    state = int(np.random.Philox(key=spec.params.seed, counter=spec.index).random_raw())
    mixed = (state + (token + 1) * 0x9E3779B97F4A7C15) & low
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & low
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & low
    mixed ^= mixed >> 31
    return -math.log(((mixed >> 11) + 0.5) / 2**53)


@settings(max_examples=400, deadline=None)
@given(spec=specs, seed=st.integers(0, 2**31), closed=st.sampled_from([0.0, 0.5, 0.98]))
def test_a_sampled_token_is_that_of_the_definition(
    spec: SamplingState, seed: int, closed: float
) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=PADDED).astype(np.float32) * 3
    logits[TOKENS:] += 50  # padding is the most probable
    allowed = rng.random(TOKENS) >= closed
    allowed[rng.integers(TOKENS)] = True
    spec = replace(spec, grammar=1)
    scores = shaped(logits.astype(np.float64), spec, allowed)
    if not np.isfinite(scores).any():
        return
    choice = sample(
        CPU, torch.from_numpy(logits)[None], [spec], TOKENS, {0: torch.from_numpy(allowed)}
    )[0]
    assert choice.token_id in expected(scores, spec)


@settings(max_examples=60, deadline=None)
@given(wishes=st.lists(specs, min_size=2, max_size=6), seed=st.integers(0, 2**31))
def test_the_rest_of_the_batch_does_not_matter(wishes: list[SamplingState], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(wishes), PADDED, generator=generator) * 3
    together = sample(CPU, logits, wishes, TOKENS)
    alone = [
        sample(CPU, logits[row : row + 1], [spec], TOKENS)[0] for row, spec in enumerate(wishes)
    ]
    assert together == alone


def spec_of(
    *, output_ids: tuple[int, ...] = (), forbidden_ids: tuple[int, ...] = (), **rule: Any
) -> SamplingState:
    return SamplingState(
        SamplingParams(**rule), index=0, output_ids=output_ids, forbidden_ids=forbidden_ids
    )


@pytest.mark.parametrize(
    ("spec", "chosen"),
    [
        (spec_of(), 3),  # plain greedy choice looks at all columns, as the original does
        (spec_of(logit_bias=((1, 0.6),)), 1),
        (spec_of(forbidden_ids=(0,)), 1),
        (spec_of(output_ids=(0, 0), frequency_penalty=0.3), 1),
        (spec_of(output_ids=(0, 1), frequency_penalty=0.3), 0),
        (spec_of(output_ids=(0,), presence_penalty=0.6), 1),
        (spec_of(output_ids=(0, 0, 0), presence_penalty=0.4), 0),
    ],
)
def test_greedy_sampling_with_logit_processors_ignores_padding(
    spec: SamplingState, chosen: int
) -> None:
    logits = torch.tensor([[2.0, 1.5, 1.0, 9.0]])
    assert sample(CPU, logits, [spec], 3)[0].token_id == chosen


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_logits_give_no_token(bad: float, temperature: float) -> None:
    logits = torch.zeros(2, 8)
    logits[0, 5] = bad
    spec = spec_of(temperature=temperature, want_logprobs=True)
    broken, sound = sample(CPU, logits, [spec, spec], 8)
    assert (broken.token_id, broken.logprob) == (NO_TOKEN, None)
    assert sound.logprob == pytest.approx(-np.log(8))


def test_logit_processors_of_one_request_do_not_touch_another() -> None:
    logits = torch.tensor([[2.0, 1.5, 1.0, 9.0]] * 2)
    ruled = spec_of(logit_bias=((1, 5.0),))
    assert [choice.token_id for choice in sample(CPU, logits, [spec_of(), ruled], 3)] == [3, 1]
    assert logits.tolist() == [[2.0, 1.5, 1.0, 9.0]] * 2


def test_ties_are_kept_from_the_lowest_id_up_before_typical_p_too() -> None:
    logits = torch.zeros(1, 1000)
    asked = [
        SamplingState(SamplingParams(temperature=1.0, top_k=3, typical_p=0.99), index=index)
        for index in range(60)
    ]
    assert {sample(CPU, logits, [spec], 1000)[0].token_id for spec in asked} == {0, 1, 2}


@pytest.mark.parametrize("spread", [0.01, 1.0, 4.0])  # many, some and few are typical
@pytest.mark.parametrize("typical_p", [0.05, 0.5, 0.99])
def test_typical_tokens_of_a_large_vocabulary(spread: float, typical_p: float) -> None:
    logits = (np.random.default_rng(1).normal(size=20000) * spread).astype(np.float32)
    for index in range(8):
        rule = SamplingParams(temperature=1.0, typical_p=typical_p, seed=3)
        spec = SamplingState(rule, index)
        choice = sample(CPU, torch.from_numpy(logits)[None], [spec], len(logits))[0]
        assert choice.token_id in expected(logits.astype(np.float64), spec)
