"""Sampled tokens depend on seed, index and logits only, and on the right candidates."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glm4v.device import DeviceOptions, open_device
from lm_worker.plan import SamplingParams, SamplingState
from lm_worker.sampling.random_sampling import CANDIDATES
from lm_worker.sampling.sampler import sample

CPU = open_device(DeviceOptions("cpu", "float32"))
GREEDY = SamplingState(SamplingParams(), index=0)
DRAWN = SamplingState(SamplingParams(temperature=1.0), index=0)

TOKENS, PADDED = 40, 48
PARAMS = {field.name for field in fields(SamplingParams)}

specs = st.builds(
    SamplingState,
    params=st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.0, 1e-40, 0.01, 0.5, 0.8, 1.0, 10.0]),
        top_k=st.sampled_from([0, 1, 2, 5, 39, 40, 41, 1000]),
        top_p=st.sampled_from([1e-9, 0.1, 0.5, 0.8, 0.999, 1.0]),
        repetition_penalty=st.sampled_from([0.1, 1.0, 1.2, 10.0]),
        seed=st.integers(0, 2**64 - 1),
    ),
    index=st.integers(0, 10000),
    penalized_ids=st.lists(st.integers(0, TOKENS - 1), unique=True, max_size=5).map(tuple),
)
# Few levels, so that ties are common.
rows_of_logits = st.lists(st.integers(-6, 6), min_size=PADDED, max_size=PADDED).map(
    lambda levels: torch.tensor(levels, dtype=torch.float32) / 2
)


def wish(base: SamplingState, **changes: Any) -> SamplingState:
    """`base` with some of its fields changed, or some of its params'."""
    params = {name: changes.pop(name) for name in list(changes) if name in PARAMS}
    return replace(base, params=replace(base.params, **params), **changes)


def tokens_of(logits: torch.Tensor, wishes: list[SamplingState], tokens: int) -> list[int]:
    return [choice.token_id for choice in sample(CPU, logits, wishes, tokens)]


def kept(logits: torch.Tensor, spec: SamplingState) -> set[int]:
    """Tokens that may be sampled, by the definitions."""
    scores = logits.double()
    for token in spec.penalized_ids:
        factor = spec.params.repetition_penalty
        scores[token] = scores[token] / factor if scores[token] > 0 else scores[token] * factor
    scores = scores[:TOKENS] - scores[:TOKENS].max()
    weights = (scores / max(spec.params.temperature, 1e-37)).exp().numpy()
    order = sorted(range(TOKENS), key=lambda token: (-scores[token], token))
    if spec.params.top_k:
        order = order[: spec.params.top_k]
    if spec.params.top_p == 1.0:
        return set(order)
    shares = np.cumsum(weights[order]) / weights[order].sum()
    # Probabilities are rounded: a sum within 1e-6 of top_p may be below or above it.
    return set(order[: int((shares < spec.params.top_p + 1e-6).sum()) + 1])


@settings(max_examples=300, deadline=None)
@given(logits=rows_of_logits, spec=specs)
def test_a_sampled_token_is_among_the_kept(logits: torch.Tensor, spec: SamplingState) -> None:
    token = tokens_of(logits[None].clone(), [spec], TOKENS)[0]
    if spec.params.temperature > 0:
        assert token < TOKENS
        assert token in kept(logits.clone(), spec)


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(rows_of_logits, specs), min_size=1, max_size=6))
def test_the_rest_of_the_batch_does_not_matter(
    rows: list[tuple[torch.Tensor, SamplingState]],
) -> None:
    logits = torch.stack([row for row, _ in rows])
    wishes = [spec for _, spec in rows]
    alone = [tokens_of(row[None], [spec], TOKENS)[0] for row, spec in rows]
    assert tokens_of(logits, wishes, TOKENS) == alone


@pytest.mark.parametrize(
    "asked",
    [
        wish(DRAWN, temperature=0.8, top_p=0.8),
        wish(DRAWN, temperature=10.0, top_p=0.8),  # more are kept than the candidates
        wish(DRAWN, top_k=50),
        wish(DRAWN, top_k=CANDIDATES + 50, top_p=0.9),
        DRAWN,
    ],
)
def test_large_vocabularies_sample_the_same_in_every_batch(asked: SamplingState) -> None:
    logits = torch.randn(6, 20000, generator=torch.Generator().manual_seed(0)) * 4
    wishes = [wish(asked, seed=7, index=row) for row in range(6)]
    alone = [tokens_of(logits[row : row + 1], [wishes[row]], 19000)[0] for row in range(6)]
    assert tokens_of(logits, wishes, 19000) == alone
    assert len(set(alone)) > 1


def test_padding_is_never_sampled_however_probable() -> None:
    logits = torch.zeros(1, PADDED)
    logits[:, TOKENS:] = 50.0
    drawn = {tokens_of(logits, [wish(DRAWN, index=i)], TOKENS)[0] for i in range(300)}
    assert max(drawn) < TOKENS
    assert len(drawn) > 30


def test_greedy_argmax_includes_padding() -> None:
    logits = torch.zeros(1, PADDED)
    logits[0, TOKENS + 3] = 1.0
    assert tokens_of(logits, [GREEDY], TOKENS) == [TOKENS + 3]


def test_a_penalty_applies_to_greedy_sampling() -> None:
    logits = torch.tensor([[2.0, 1.5, -1.0], [-1.0, -2.0, -1.2]])
    asked = wish(GREEDY, repetition_penalty=2.0, penalized_ids=(0,))
    assert tokens_of(logits, [asked, asked], 3) == [1, 2]
    assert tokens_of(logits, [GREEDY, GREEDY], 3) == [0, 0]
    assert logits.tolist() == [[2.0, 1.5, -1.0], [-1.0, -2.0, pytest.approx(-1.2)]]


def test_the_penalty_applies_before_temperature_and_top_k() -> None:
    logits = torch.tensor([[3.0, 2.0, -9.0, -9.0]])
    asked = wish(DRAWN, top_k=1, repetition_penalty=2.0, penalized_ids=(0,))
    assert tokens_of(logits, [asked], 4) == [1]


def test_ties_are_kept_from_the_lowest_id_up() -> None:
    logits = torch.zeros(1, 1000)
    drawn = {
        tokens_of(logits, [wish(DRAWN, top_k=3, index=index)], 1000)[0] for index in range(100)
    }
    assert drawn == {0, 1, 2}


@pytest.mark.parametrize(
    ("asked", "shares"),
    [
        (DRAWN, [0.4, 0.3, 0.2, 0.1]),
        (wish(DRAWN, top_k=2), [4 / 7, 3 / 7, 0, 0]),
        (wish(DRAWN, top_p=0.65), [4 / 7, 3 / 7, 0, 0]),
        (wish(DRAWN, top_p=0.75), [4 / 9, 3 / 9, 2 / 9, 0]),
        (wish(DRAWN, top_k=3, top_p=0.5), [4 / 7, 3 / 7, 0, 0]),  # 0.4 of 0.9 is too little
        (wish(DRAWN, temperature=0.5), [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
    ],
)
def test_frequencies_agree_with_probabilities(asked: SamplingState, shares: list[float]) -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().expand(3000, 4)
    wishes = [wish(asked, seed=11, index=index) for index in range(3000)]
    counts = np.bincount(tokens_of(logits, wishes, 4), minlength=4)
    expected = np.array(shares) * 3000
    assert counts[expected == 0].sum() == 0
    square = ((counts - expected)[expected > 0] ** 2 / expected[expected > 0]).sum()
    assert square < 16.3  # chi-square of 3 degrees of freedom, one in a thousand


def test_seed_and_index_both_matter() -> None:
    logits = torch.zeros(1, 10000)
    by_seed = {tokens_of(logits, [wish(DRAWN, seed=s)], 10000)[0] for s in range(20)}
    by_index = {tokens_of(logits, [wish(DRAWN, index=i)], 10000)[0] for i in range(20)}
    assert len(by_seed) > 15
    assert len(by_index) > 15


def test_sampled_tokens_are_pinned() -> None:
    """A resumed request goes on as it began, also after an upgrade."""
    logits = torch.linspace(-3.0, 3.0, 500)[None]
    wishes = [wish(DRAWN, seed=2**63 + 5, index=index) for index in range(6)]
    drawn = [tokens_of(logits, [asked], 500)[0] for asked in wishes]
    assert drawn == [428, 300, 312, 452, 288, 470]


def test_logprobs_are_taken_before_penalty_and_temperature() -> None:
    logits = torch.randn(3, PADDED, generator=torch.Generator().manual_seed(3))
    wishes = [
        wish(DRAWN, top_k=2, repetition_penalty=3.0, penalized_ids=(1, 2), want_logprobs=True),
        GREEDY,
        wish(GREEDY, want_logprobs=True, top_logprobs=5),
    ]
    choices = sample(CPU, logits, wishes, TOKENS)
    expected = logits.log_softmax(dim=-1)
    assert choices[0].top == ()
    assert choices[0].logprob == pytest.approx(expected[0, choices[0].token_id].item(), abs=1e-6)
    assert choices[1].logprob is None
    order = expected[2].argsort(descending=True)[:5].tolist()
    assert [token for token, _ in choices[2].top] == order
    assert [p for _, p in choices[2].top] == pytest.approx(expected[2, order].tolist(), abs=1e-6)
    assert choices[2].logprob == choices[2].top[0][1]


@pytest.mark.parametrize("top_k", [100, CANDIDATES + 44])
def test_top_p_applies_to_what_top_k_keeps(top_k: int) -> None:
    weights = 1.0 / torch.arange(1.0, 20001.0)
    reached = weights[:top_k].cumsum(0) >= 0.5 * weights[:top_k].sum()
    wishes = [wish(DRAWN, top_k=top_k, top_p=0.5, index=index) for index in range(200)]
    drawn = tokens_of(weights.log().expand(200, -1), wishes, 20000)
    assert max(drawn) == int(reached.int().argmax())


@pytest.mark.parametrize("top_k", [50, CANDIDATES + 44])
def test_top_k_samples_all_of_its_tokens_and_no_others(top_k: int) -> None:
    logits = (torch.arange(1000.0) * -1e-4).expand(4000, -1)
    wishes = [wish(DRAWN, top_k=top_k, index=index) for index in range(4000)]
    assert set(tokens_of(logits, wishes, 1000)) == set(range(top_k))
