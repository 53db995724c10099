"""The simulated device: what depends on what, and what it refuses."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.device import AttentionSegment, DeviceOptions, open_device
from glm4v.device.collectives import SingleRank
from glm4v.device.simulated.attention import SimulatedAttention
from glm4v.device.simulated.decoder import SimulatedDecoder
from glm4v.device.simulated.device import SimulatedDevice
from glm4v.device.simulated.hashing import UInt64Array, mix
from lm_worker.model.layers import Shard
from lm_worker.model.runner import Runner
from lm_worker.plan import Chunk, SamplingParams, SamplingState, StepPlan

GREEDY = SamplingState(SamplingParams(), 0)


def tokens(count: int, seed: int = 1) -> UInt64Array:
    return mix(np.arange(count, dtype=np.uint64) + np.uint64(seed * 2**20))


def attention() -> SimulatedAttention:
    made = SimulatedAttention()
    made.allocate(layers=2, blocks=10, block_size=4, kv_heads=1, head_dim=8)
    return made


def test_a_context_is_hashed_alike_in_any_chunks_blocks_and_company() -> None:
    sequence, other = tokens(14), tokens(6, seed=2)
    whole, parts = attention(), attention()
    whole.prepare([AttentionSegment(14, 0, (0, 1, 2, 3))])
    expected = whole.attend(0, sequence)
    table, context_len, found = (7, 2, 9, 4), 0, []
    for query_len in (5, 1, 7, 1):
        company = AttentionSegment(6, 0, (0, 1))
        parts.prepare([company, AttentionSegment(query_len, context_len, table)])
        step = np.concatenate([other, sequence[context_len : context_len + query_len]])
        found.append(parts.attend(1, step)[6:])
        context_len += query_len
    assert np.array_equal(np.concatenate(found), expected)


@pytest.mark.parametrize("place", [0, 5, 9])
def test_every_token_of_the_context_counts_and_so_does_its_place(place: int) -> None:
    made, sequence = attention(), tokens(10)
    made.prepare([AttentionSegment(10, 0, (0, 1, 2))])
    before = made.attend(0, sequence)
    other = sequence.copy()
    other[place] ^= np.uint64(1)
    assert list(made.attend(0, other) == before) == [at < place for at in range(10)]
    swapped = sequence.copy()
    swapped[:2] = sequence[1::-1]
    assert made.attend(0, swapped)[9] != before[9]


def test_a_slot_that_was_never_written_cannot_be_read() -> None:
    made = attention()
    made.prepare([AttentionSegment(4, 0, (1,))])
    made.attend(0, tokens(4))
    made.prepare([AttentionSegment(1, 5, (1, 2))])  # token 4 is missing
    with pytest.raises(RuntimeError, match=r"slots \[8\] were never written"):
        made.attend(0, tokens(1))
    with pytest.raises(IndexError, match="tokens 4 to 5 of 4"):
        made.prepare([AttentionSegment(1, 4, (1,))])


def test_forward_hashes_keys_and_values_of_each_layer() -> None:
    made = attention()
    query, key, value = torch.zeros(3, 4, 8), torch.randn(3, 1, 8), torch.randn(3, 1, 8)
    made.prepare([AttentionSegment(3, 0, (5,))])
    output = made.forward(0, query, key, value)
    assert output.shape == query.shape
    assert torch.equal(made.forward(1, query, key, value), output)
    assert not torch.equal(made.forward(1, query, key, value + 1), output)


@pytest.fixture
def device() -> SimulatedDevice:
    opened = open_device(DeviceOptions("simulated"))
    assert isinstance(opened, SimulatedDevice)
    return opened


def test_products_are_exact_in_every_batch_and_for_every_shard(device: SimulatedDevice) -> None:
    torch.manual_seed(0)  # of other weights, two rows may have the same token
    weight, x = torch.randn(5000, 64), torch.randn(9, 64)
    whole = device.linear(weight)(x)
    assert torch.equal(device.linear(weight)(x[4:5])[0], whole[4])
    shards = [device.linear(part)(x) for part in torch.split(weight, 2500)]
    assert torch.equal(torch.cat(shards, dim=-1), whole)
    best = whole.argmax(dim=-1).tolist()
    assert len(set(best)) == 9  # each row has a token of its own
    assert device.linear(weight, epilogue="silu_gate")(x).shape == (9, 2500)


def test_what_a_decoder_of_several_layers_wrote_can_be_copied() -> None:
    made, decoder = attention(), SimulatedDecoder()
    hidden, positions = torch.randn(6, 8), torch.arange(6)
    made.prepare([AttentionSegment(6, 0, (5, 6))])
    expected = decoder.run(range(2), hidden, positions, made)
    made.copy_tokens(5, 8, 3)
    made.prepare([AttentionSegment(3, 3, (8, 9))])
    assert torch.equal(decoder.run(range(2), hidden[3:], positions[3:], made), expected[3:])
    with pytest.raises(RuntimeError, match="not all of 3 tokens of block 6 were written"):
        made.copy_tokens(6, 9, 3)  # it has two


def test_nothing_can_be_copied_before_anything_was_written() -> None:
    with pytest.raises(RuntimeError, match="not all of 1 tokens of block 0 were written"):
        attention().copy_tokens(0, 1, 1)


def step(runner: Runner, *chunks: Chunk) -> list[int]:
    return [token.token_id for [token] in runner.execute(StepPlan(0, chunks)).tokens]


def chunk(number: int, ids: tuple[int, ...], context_len: int, table: tuple[int, ...]) -> Chunk:
    positions = tuple(range(context_len, context_len + len(ids)))
    return Chunk(number, ids, positions, context_len, table, "", GREEDY)


def test_a_runner_gives_the_same_tokens_in_any_chunks_and_company(
    checkpoint_dir: Callable[[str], Path], device: SimulatedDevice
) -> None:
    checkpoint = Checkpoint.open(checkpoint_dir("micro-glm4v"))
    runner = Runner.load(checkpoint, device, Shard(0, 1), SingleRank(), blocks=20, block_size=4)
    ids = (5, 9, 2, 44, 17, 8, 9)
    [whole] = step(runner, chunk(0, ids, 0, (0, 1)))
    assert step(runner, chunk(1, ids[:3], 0, (9, 4)), chunk(2, (3, 3), 0, (12,)))[0] != whole
    found = step(runner, chunk(2, (7,), 2, (12,)), chunk(1, ids[3:], 3, (9, 4)))
    assert found[1] == whole
    assert step(runner, chunk(3, (6, *ids[1:]), 0, (15, 16))) != [whole]
