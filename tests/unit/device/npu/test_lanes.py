"""Rotation by lanes, half a head apart, against rotation of neighbouring dimensions."""

import pytest
import torch

from glm4v.device.npu.lanes import rotary_lanes, rotary_table, spread_columns, spread_rows
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


def test_columns_of_narrow_heads_have_zeros_behind() -> None:
    weight = torch.randn(3, 2 * 32)
    spread = spread_columns(weight, 32).view(3, 2, 128)
    assert torch.equal(spread[..., :32], weight.view(3, 2, 32))
    assert not spread[..., 32:].any()
