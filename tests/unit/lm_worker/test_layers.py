"""The layers against their definitions, whole and sharded."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bench.geometry import GLM_4V_9B
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.quantized import as_tensor
from glm4v.checkpoint.tensor_place import read_header
from glm4v.checkpoint.weights import Weights
from glm4v.device import DeviceOptions, open_device
from glm4v.device.collectives import SingleRank
from glm4v.device.norm import PlainRmsNorm
from glm4v.errors import ConfigurationError
from lm_worker.model.decoder import rotate
from lm_worker.model.layers import (
    Shard,
    VocabParallelEmbedding,
    VocabParallelHead,
    layer_weights,
    rotary_angles,
)
from lm_worker.model.model import kv_bytes_per_token

CPU = open_device(DeviceOptions("cpu", "float32"))
SPEC = replace(GLM_4V_9B, context_tokens=64)  # rotary angles of few positions


def weights_of(tensors: dict[str, torch.Tensor], folder: Path) -> Weights:
    """Weights in a file of their own."""
    file = folder / "model.safetensors"
    save_file(tensors, file)
    checkpoint = Checkpoint(folder, SPEC, read_header(file), "")
    return Weights(checkpoint, torch.float32, torch.device("cpu"))


@pytest.mark.parametrize(
    ("size", "kv_heads"),
    [
        (1, [(0, 2)]),
        (2, [(0, 1), (1, 2)]),
        (4, [(0, 1), (0, 1), (1, 2), (1, 2)]),
        (8, [(0, 1)] * 4 + [(1, 2)] * 4),
    ],
)
def test_ranks_split_query_heads_and_share_kv_heads(
    size: int, kv_heads: list[tuple[int, int]]
) -> None:
    shards = [Shard(rank, size) for rank in range(size)]
    for shard in shards:
        SPEC.check_ranks(shard.size)
    assert [shard.kv_heads(SPEC) for shard in shards] == kv_heads
    heads = [head for shard in shards for head in range(*shard.heads(SPEC))]
    assert heads == list(range(32))
    for shard, (first, last) in zip(shards, kv_heads, strict=True):
        # Query heads 0-15 use kv head 0, 16-31 kv head 1.
        assert {head // 16 for head in range(*shard.heads(SPEC))} == set(range(first, last))


@pytest.mark.parametrize(
    ("size", "reason"),
    [(3, "32 attention heads do not divide into 3 ranks"), (128, "32 attention heads")],
)
def test_an_invalid_number_of_ranks_is_refused(size: int, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        SPEC.check_ranks(size)


@pytest.mark.parametrize(("size", "expected"), [(1, 40960), (2, 20480), (8, 20480)])
def test_a_token_takes_the_documented_bytes_of_cache(size: int, expected: int) -> None:
    device = open_device(DeviceOptions("cpu", "bfloat16"))
    assert kv_bytes_per_token(SPEC, Shard(0, size), device) == expected


def test_fused_weights_are_sharded_by_section(tmp_path: Path) -> None:
    """Every value tells its row and column, so that each rank's part can be read off."""
    spec = replace(
        SPEC, layers=1, hidden_size=3, heads=4, kv_heads=2, head_dim=4, ffn_size=8, vocab_size=4
    )
    shapes = {
        "input_layernorm.weight": (3,),
        "post_attention_layernorm.weight": (3,),
        "self_attention.query_key_value.weight": (32, 3),
        "self_attention.query_key_value.bias": (32,),
        "self_attention.dense.weight": (3, 16),
        "mlp.dense_h_to_4h.weight": (16, 3),
        "mlp.dense_4h_to_h.weight": (3, 8),
    }
    tensors = {
        "transformer.encoder.layers.0." + name: torch.arange(float(math.prod(shape))).view(shape)
        for name, shape in shapes.items()
    }
    part = layer_weights(0, spec, weights_of(tensors, tmp_path), Shard(1, 2))
    matrices = (part.qkv, part.out, part.gate_up, part.down)
    qkv, out, gate_up, down = (as_tensor(matrix, torch.float32) for matrix in matrices)
    heads = [*range(8, 16), *range(20, 24), *range(28, 32)]
    assert qkv[:, 0].tolist() == [3 * row for row in heads]
    assert part.qkv_bias.tolist() == heads
    assert out[0].tolist() == [*range(8, 16)]
    assert gate_up[:, 0].tolist() == [3 * row for row in (*range(4, 8), *range(12, 16))]
    assert down[0].tolist() == [*range(4, 8)]
    assert part.attention_norm.tolist() == part.mlp_norm.tolist() == [0, 1, 2]


class OneOfFour(SingleRank):
    """A rank whose results are not gathered."""

    size = 4


def test_each_id_is_in_one_rank(tmp_path: Path) -> None:
    table = torch.randn(8, 3)
    weights = weights_of({"table": table, "head": table.clone()}, tmp_path)
    ids = torch.tensor([7, 0, 3, 4, 4])
    spans = [Shard(rank, 4).span(8) for rank in range(4)]
    parts = [
        VocabParallelEmbedding(weights, "table", span, CPU, OneOfFour())(ids) for span in spans
    ]
    assert torch.equal(torch.stack(parts).sum(dim=0), table[ids])
    scores = [VocabParallelHead(weights, "head", s, CPU, OneOfFour())(table[:2]) for s in spans]
    torch.testing.assert_close(torch.cat(scores, -1), table[:2] @ table.T, atol=1e-5, rtol=0)


def test_the_norm_and_its_weight_are_float32() -> None:
    weight = torch.randn(64)
    norm = PlainRmsNorm(weight, 1e-3)
    x = (torch.randn(5, 64) * 0.05).bfloat16()  # small, so that eps counts
    exact = x.double()
    exact = exact / (exact.square().mean(-1, keepdim=True) + 1e-3).sqrt() * weight.double()
    # Rounded once, at the end; rounding before the weight too would differ in the last bit.
    assert (norm(x) == exact.bfloat16()).float().mean() > 0.99


def test_adjacent_pairs_of_the_first_half_of_a_head_are_rotated() -> None:
    cosine, sine = rotary_angles(SPEC, torch.float32, torch.device("cpu"))
    positions = torch.tensor([0, 1, 63])
    heads = torch.randn(3, 2, SPEC.head_dim)
    rotated = heads.clone()
    rotate(rotated, cosine[positions][:, None], sine[positions][:, None])
    pairs = torch.view_as_complex(heads[..., :64].reshape(3, 2, 32, 2).double())
    angles = positions[:, None].double() * 10000.0 ** (-torch.arange(32).double() / 32)
    turned = pairs * torch.polar(torch.ones_like(angles), angles)[:, None]
    expected = torch.view_as_real(turned).reshape(3, 2, 64).float()
    torch.testing.assert_close(rotated[..., :64], expected, atol=1e-5, rtol=0)
    assert torch.equal(rotated[..., 64:], heads[..., 64:])


def test_angles_are_computed_in_float32_and_then_rounded() -> None:
    rough = rotary_angles(SPEC, torch.bfloat16, torch.device("cpu"))
    exact = rotary_angles(SPEC, torch.float32, torch.device("cpu"))
    for part, whole in zip(rough, exact, strict=True):
        assert torch.equal(part, whole.bfloat16())
