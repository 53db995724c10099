"""Attention heads as the kernels want them: 128 lanes, and rotary pairs half a head apart.

GLM rotates neighbouring dimensions (0, 1), (2, 3), … of the first `rotary_dim` of a head. The
kernels rotate lane i with lane i + 64. A fixed order of lanes makes one of the other:

    dimension  0  1  2  3 … rotary_dim - 1 | rotary_dim …
    lane       0 64  1 65 …                | the lanes that are left, in order

The products of queries and keys do not depend on the order, so it is applied once, to the rows of
their weights. The lanes that are left have cosine 1 and sine 0: they pass through unchanged. Heads
smaller than 128, which only small models have, are filled up with zeros, which are cut off again
behind the attention.
"""

from collections.abc import Callable

import torch

from glm4v.checkpoint.quantized import Matrix, QuantizedWeight
from glm4v.device.npu.chip import HEAD_DIM

_HALF = HEAD_DIM // 2


def rotary_lanes(head_dim: int, rotary_dim: int) -> list[int]:
    """The lane of each dimension of a query or key head."""
    pairs = rotary_dim // 2
    rotated = [dim // 2 + _HALF * (dim % 2) for dim in range(rotary_dim)]
    left = [*range(pairs, _HALF), *range(_HALF + pairs, HEAD_DIM)]
    return rotated + left[: head_dim - rotary_dim]


def spread_rows(weight: torch.Tensor, lanes: list[int]) -> torch.Tensor:
    """The rows of heads in their lanes: [heads * head_dim, ...] -> [heads * 128, ...]."""
    heads = weight.view(-1, len(lanes), *weight.shape[1:])
    spread = heads.new_zeros((len(heads), HEAD_DIM, *heads.shape[2:]))
    spread[:, torch.tensor(lanes, device=weight.device)] = heads
    return spread.flatten(0, 1)


def spread_matrix(weight: Matrix, spread: Callable[[torch.Tensor], torch.Tensor]) -> Matrix:
    """The rows of a matrix put in order by `spread`; those of 8 bits with their scales."""
    if isinstance(weight, QuantizedWeight):
        return weight.map_rows(spread)
    assert isinstance(weight, torch.Tensor), "this device does not pack files"
    return spread(weight)


def rotary_table(pairs: torch.Tensor, rest: float) -> torch.Tensor:
    """A table [positions, rotary pairs] as lanes [positions, 128], with `rest` in the others."""
    count = pairs.shape[1]
    table = pairs.new_full((len(pairs), HEAD_DIM), rest)
    table[:, :count] = pairs
    table[:, _HALF : _HALF + count] = pairs
    return table
