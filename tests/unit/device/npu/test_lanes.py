"""Rotation by lanes, half a head apart, against rotation of neighbouring dimensions."""

from dataclasses import replace

import pytest
import torch

from glm4v.checkpoint.quantized import QuantizedWeight, quantize
from glm4v.device.npu.lanes import rotary_lanes, rotary_table, spread_matrix, spread_rows
from lm_worker.model.decoder import rotate


def by_halves(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """The operator's formula: lane i turns with lane i + 64."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat((-second, first), -1) * sine


@pytest.mark.parametrize(("head_dim", "rotary_dim"), [(128, 64), (32, 16), (8, 4), (128, 128)])
def test_scores_are_those_of_the_original_order(head_dim: int, rotary_dim: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3 * head_dim, 24, generator=generator, dtype=torch.float64)
    x = torch.randn(5, 24, generator=generator, dtype=torch.float64)
    angles = torch.randn(5, rotary_dim // 2, generator=generator, dtype=torch.float64)
    heads = (x @ weights.T).view(5, 3, head_dim)
    rotate(heads, angles.cos()[:, None], angles.sin()[:, None])
    lanes = rotary_lanes(head_dim, rotary_dim)
    spread = (x @ spread_rows(weights, lanes).T).view(5, 3, 128)
    cosine, sine = rotary_table(angles.cos(), 1.0), rotary_table(angles.sin(), 0.0)
    turned = by_halves(spread, cosine[:, None], sine[:, None])
    torch.testing.assert_close(turned[..., lanes], heads)
    torch.testing.assert_close(
        torch.einsum("thd,shd->hts", turned, turned), torch.einsum("thd,shd->hts", heads, heads)
    )


def test_the_published_heads_fill_their_lanes() -> None:
    lanes = rotary_lanes(128, 64)
    assert sorted(lanes) == list(range(128))
    assert lanes[:6] == [0, 64, 1, 65, 2, 66]
    assert lanes[64:66] == [32, 33]
    assert lanes[96] == 96


def test_rows_of_8_bits_take_their_scales_and_offsets_along() -> None:
    lanes = rotary_lanes(32, 16)
    quantized = quantize(torch.randn(3 * 32, 96))
    weight = replace(quantized, offsets=torch.randn_like(quantized.scales))
    spread = spread_matrix(weight, lambda rows: spread_rows(rows, lanes))
    assert isinstance(spread, QuantizedWeight)
    expected = spread_rows(weight.dequantize(), lanes)
    assert torch.equal(spread.dequantize(), expected)
    plain = spread_matrix(expected, lambda rows: rows[:1])
    assert isinstance(plain, torch.Tensor)
    assert torch.equal(plain, expected[:1])
