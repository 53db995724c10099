"""Paged attention on the CPU, with the operators for GPUs too, against attention written out."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glm4v.device import Attention, AttentionSegment, Device
from glm4v.device.cpu.attention import _QUERY_BLOCK, _SHORT
from glm4v.device.cpu.device import CpuDevice
from glm4v.device.cpu.kernels import open_kernels
from glm4v.device.cuda.device import CudaDevice

HEADS, KV_HEADS, HEAD_DIM, LAYERS = 4, 2, 8, 2


class Means:
    """What attends."""

    device: Device = CpuDevice(torch.float32)


@pytest.fixture(
    scope="module",
    autouse=True,
    params=[pytest.param("kernels", marks=pytest.mark.needs_compiler), "torch", "cuda"],
)
def means(request: pytest.FixtureRequest) -> None:
    if request.param == "cuda":
        Means.device = CudaDevice(torch.device("cpu"), torch.float32)
        return
    kernels = open_kernels() if request.param == "kernels" else None
    assert (kernels is not None) == (request.param == "kernels")
    Means.device = CpuDevice(torch.float32, kernels)


@dataclass(frozen=True, slots=True)
class Rows:
    """All rows of one sequence in one layer."""

    query: torch.Tensor  # [rows, heads, head_dim]
    key: torch.Tensor  # [rows, kv_heads, head_dim]
    value: torch.Tensor

    def part(self, start: int, end: int) -> "Rows":
        return Rows(self.query[start:end], self.key[start:end], self.value[start:end])

    def attended(self) -> torch.Tensor:
        """Causal attention, one product after the other, in double precision."""
        group = HEADS // KV_HEADS
        key = self.key.double().repeat_interleave(group, dim=1)
        value = self.value.double().repeat_interleave(group, dim=1)
        scores = torch.einsum("qhd,khd->hqk", self.query.double(), key) / HEAD_DIM**0.5
        future = torch.ones(len(self.key), len(self.key), dtype=torch.bool).triu(1)
        shares = scores.masked_fill(future, -torch.inf).softmax(dim=-1)
        return torch.einsum("hqk,khd->qhd", shares, value).float()


def random_rows(count: int, seed: int) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    return Rows(
        *(
            torch.randn(count, heads, HEAD_DIM, generator=generator)
            for heads in (HEADS, KV_HEADS, KV_HEADS)
        )
    )


def allocated(blocks: int, block_size: int) -> Attention:
    attention = Means.device.paged_attention()
    attention.allocate(
        layers=LAYERS,
        blocks=blocks,
        block_size=block_size,
        kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
    )
    return attention


def step(
    attention: Attention, segments: Sequence[AttentionSegment], rows: Sequence[Rows], layer: int = 0
) -> list[torch.Tensor]:
    """One step; the output of each segment."""
    attention.prepare(segments)
    output = attention.forward(
        layer,
        torch.cat([part.query for part in rows]),
        torch.cat([part.key for part in rows]),
        torch.cat([part.value for part in rows]),
    )
    return list(torch.split(output, [segment.query_len for segment in segments]))


def play(
    lengths: Sequence[int], sizes: Sequence[int], block_size: int
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Sequences of `lengths` side by side, each in chunks of its size; what came, what should."""
    counts = [-(-length // block_size) for length in lengths]
    order = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(1)).tolist()
    tables = [tuple(order[sum(counts[:i]) : sum(counts[: i + 1])]) for i in range(len(counts))]
    rows = [random_rows(length, seed) for seed, length in enumerate(lengths)]
    attention = allocated(sum(counts), block_size)
    outputs: list[list[torch.Tensor]] = [[] for _ in lengths]
    done = [0] * len(lengths)
    while any(at < length for at, length in zip(done, lengths, strict=True)):
        active = [i for i, length in enumerate(lengths) if done[i] < length]
        ends = [min(done[i] + sizes[i], lengths[i]) for i in active]
        segments = [
            AttentionSegment(end - done[i], done[i], tables[i])
            for i, end in zip(active, ends, strict=True)
        ]
        parts = [rows[i].part(done[i], end) for i, end in zip(active, ends, strict=True)]
        for i, end, output in zip(active, ends, step(attention, segments, parts), strict=True):
            outputs[i].append(output)
            done[i] = end
    return [torch.cat(parts) for parts in outputs], [part.attended() for part in rows]


@settings(max_examples=40, deadline=None)
@given(
    sequences=st.lists(
        st.tuples(st.integers(1, 40), st.sampled_from([1, 2, 3, 7, 40])), min_size=1, max_size=5
    ),
    block_size=st.sampled_from([1, 2, 5, 16]),
)
def test_chunks_of_many_sequences_attend_as_written_out(
    sequences: list[tuple[int, int]], block_size: int
) -> None:
    lengths, sizes = zip(*sequences, strict=True)
    for got, expected in zip(*play(lengths, sizes, block_size), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("chunk", [_QUERY_BLOCK - 1, _QUERY_BLOCK, 3 * _QUERY_BLOCK + 5])
def test_long_prompts_cross_row_blocks_and_outgrow_the_mask(chunk: int) -> None:
    length = 2 * _SHORT + _QUERY_BLOCK + 3
    for got, expected in zip(*play([length, 5], [chunk, 1], 16), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_decodes_of_short_and_long_sequences_in_one_step() -> None:
    lengths = [3, _SHORT + 40, 2 * _SHORT + 40, 200]
    attention = allocated(sum(lengths), 1)
    tables = [tuple(range(sum(lengths[:i]), sum(lengths[: i + 1]))) for i in range(4)]
    rows = [random_rows(length, seed) for seed, length in enumerate(lengths)]
    whole = [AttentionSegment(n - 1, 0, table) for n, table in zip(lengths, tables, strict=True)]
    step(attention, whole, [r.part(0, n - 1) for r, n in zip(rows, lengths, strict=True)])
    last = [AttentionSegment(1, n - 1, table) for n, table in zip(lengths, tables, strict=True)]
    outputs = step(attention, last, [r.part(n - 1, n) for r, n in zip(rows, lengths, strict=True)])
    for output, part in zip(outputs, rows, strict=True):
        torch.testing.assert_close(output, part.attended()[-1:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, 1e30])
def test_what_others_left_in_the_cache_is_never_seen(poison: float) -> None:
    attention = allocated(8, 4)
    filled = Rows(*(torch.full((32, h, HEAD_DIM), poison) for h in (HEADS, KV_HEADS, KV_HEADS)))
    step(attention, [AttentionSegment(32, 0, tuple(range(8)))], [filled])
    rows = [random_rows(6, 0), random_rows(9, 1)]
    tables = [(5, 2), (0, 7, 3)]
    starts = [AttentionSegment(5, 0, tables[0]), AttentionSegment(8, 0, tables[1])]
    step(attention, starts, [rows[0].part(0, 5), rows[1].part(0, 8)])
    decodes = [AttentionSegment(1, 5, tables[0]), AttentionSegment(1, 8, tables[1])]
    outputs = step(attention, decodes, [rows[0].part(5, 6), rows[1].part(8, 9)])
    for output, part in zip(outputs, rows, strict=True):
        torch.testing.assert_close(output, part.attended()[-1:], atol=1e-5, rtol=0)


def test_sequences_share_the_blocks_of_a_common_prefix() -> None:
    attention = allocated(4, 4)
    first, second = random_rows(6, 0), random_rows(6, 1)
    second = Rows(
        second.query,
        torch.cat([first.key[:4], second.key[4:]]),
        torch.cat([first.value[:4], second.value[4:]]),
    )
    step(attention, [AttentionSegment(6, 0, (0, 1))], [first])
    output = step(attention, [AttentionSegment(2, 4, (0, 3))], [second.part(4, 6)])[0]
    torch.testing.assert_close(output, second.attended()[4:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("block_size", [3, 5, 16, 32])
def test_copied_tokens_are_used_as_if_they_had_been_computed(block_size: int) -> None:
    """In every layer, up to the one where the second sequence goes on differently."""
    attention = allocated(6, block_size)
    shared, length = block_size + block_size // 2 + 1, 2 * block_size
    rows = [random_rows(length, layer) for layer in range(LAYERS)]
    others = [random_rows(length, 7 + layer) for layer in range(LAYERS)]
    for layer in range(LAYERS):
        step(attention, [AttentionSegment(length, 0, (4, 1))], [rows[layer]], layer)
    attention.copy_tokens(1, 3, shared - block_size)
    for layer in range(LAYERS):
        first, other = rows[layer], others[layer]
        other = Rows(
            other.query,
            torch.cat([first.key[:shared], other.key[shared:]]),
            torch.cat([first.value[:shared], other.value[shared:]]),
        )
        segment = AttentionSegment(length - shared, shared, (4, 3))
        [output] = step(attention, [segment], [other.part(shared, length)], layer)
        torch.testing.assert_close(output, other.attended()[shared:], atol=1e-5, rtol=0)
        last = random_rows(1, 20 + layer)
        grown = Rows(
            *(torch.cat([getattr(first, n), getattr(last, n)]) for n in ("query", "key", "value"))
        )
        [output] = step(attention, [AttentionSegment(1, length, (4, 1, 0))], [last], layer)
        torch.testing.assert_close(output, grown.attended()[-1:], atol=1e-5, rtol=0)


def test_layers_have_caches_of_their_own() -> None:
    attention = allocated(1, 4)
    segment = [AttentionSegment(3, 0, (0,))]
    rows = [random_rows(3, layer) for layer in range(LAYERS)]
    for layer in range(LAYERS):
        step(attention, segment, [rows[layer]], layer)
    last = [AttentionSegment(1, 2, (0,))]
    for layer in range(LAYERS):
        output = step(attention, last, [rows[layer].part(2, 3)], layer)[0]
        torch.testing.assert_close(output, rows[layer].attended()[-1:], atol=1e-5, rtol=0)


def test_full_attention_lets_every_row_see_every_row() -> None:
    # The kernels take 512 keys at once, and the last few with those before them.
    for rows, head_dim in ((5, HEAD_DIM), (600, 40), (1040, 32), (1041, 16)):
        heads = torch.randn(2, rows, 3, HEADS, head_dim)
        query, key, value = heads.double().permute(2, 0, 3, 1, 4)
        shares = (query @ key.mT / head_dim**0.5).softmax(dim=-1)
        got = Means.device.full_attention(heads)
        expected = (shares @ value).transpose(1, 2).float()
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
def test_full_attention_of_scores_near_and_far_from_each_other(spread: float) -> None:
    """Their maximum rises in later chunks; weights far below it vanish."""
    heads = torch.randn(1, 1100, 3, 1, 16, generator=torch.Generator().manual_seed(2))
    heads[:, :, 0] *= spread * torch.linspace(0.01, 1, 1100)[:, None, None]
    heads[:, :, 1] *= torch.linspace(0.1, 2, 1100)[:, None, None]
    query, key, value = heads.double().permute(2, 0, 3, 1, 4)
    expected = ((query @ key.mT / 4).softmax(dim=-1) @ value).transpose(1, 2)
    got = Means.device.full_attention(heads).double()
    torch.testing.assert_close(got, expected, atol=4e-6 * (1 + spread), rtol=0)
