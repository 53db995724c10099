"""Small decoder layers with random weights, and sequences that they compute."""

from collections.abc import Iterator, Sequence

import torch

from glm4v.device import AttentionSegment, DecoderShape, LayerWeights
from glm4v.device.collectives import SingleRank
from glm4v.device.cpu.device import CpuDevice
from lm_worker.model.decoder import TorchDecoder

HEADS, KV_HEADS, HEAD_DIM, HIDDEN, FFN, LAYERS = 6, 2, 12, 40, 52, 2


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layers() -> Iterator[LayerWeights]:
    qkv = (HEADS + 2 * KV_HEADS) * HEAD_DIM
    for seed in range(0, 70 * LAYERS, 70):
        yield LayerWeights(
            attention_norm=1 + 0.1 * random(HIDDEN, seed=seed),
            qkv=random(qkv, HIDDEN, seed=seed + 1) / 4,
            qkv_bias=random(qkv, seed=seed + 2),
            out=random(HIDDEN, HEADS * HEAD_DIM, seed=seed + 3) / 8,
            mlp_norm=1 + 0.1 * random(HIDDEN, seed=seed + 4),
            gate_up=random(2 * FFN, HIDDEN, seed=seed + 5) / 6,
            down=random(HIDDEN, FFN, seed=seed + 6) / 7,
        )


def shape() -> DecoderShape:
    angles = torch.outer(torch.arange(2000.0), torch.tensor([1.0, 0.1, 0.01]))
    return DecoderShape(HEADS, KV_HEADS, HEAD_DIM, 1e-6, angles.cos(), angles.sin())


class Sequences:
    """Sequences that a decoder computes, each in a block table of its own."""

    def __init__(
        self,
        device: CpuDevice,
        lengths: Sequence[int],
        block_size: int,
        weights: Sequence[LayerWeights] | None = None,
    ) -> None:
        weights = weights or list(layers())
        decoder = device.decoder(weights, shape(), SingleRank())
        self._decoder = decoder or TorchDecoder(weights, shape(), device, SingleRank())
        self._attention = device.paged_attention()
        counts = [-(-length // block_size) for length in lengths]
        self._attention.allocate(
            layers=LAYERS,
            blocks=sum(counts),
            block_size=block_size,
            kv_heads=KV_HEADS,
            head_dim=HEAD_DIM,
        )
        order = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(3)).tolist()
        self._tables = [
            tuple(order[sum(counts[:i]) : sum(counts[: i + 1])]) for i in range(len(counts))
        ]
        self._rows = [random(length, HIDDEN, seed=9 + i) for i, length in enumerate(lengths)]
        self._done = [0] * len(lengths)

    def step(self, rows: dict[int, int]) -> dict[int, torch.Tensor]:
        """The next rows of some sequences: {sequence: how many} -> {sequence: result}."""
        starts = {i: self._done[i] for i in rows}
        self._attention.prepare(
            [AttentionSegment(count, starts[i], self._tables[i]) for i, count in rows.items()]
        )
        hidden = torch.cat([self._rows[i][starts[i] : starts[i] + n] for i, n in rows.items()])
        positions = torch.cat([torch.arange(starts[i], starts[i] + n) for i, n in rows.items()])
        result = self._decoder.run(range(LAYERS), hidden, positions, self._attention)
        for i, count in rows.items():
            self._done[i] += count
        parts = torch.split(result, list(rows.values()))
        return dict(zip(rows, parts, strict=True))
