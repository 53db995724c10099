"""What the network's weights are before the first step."""

import math

import torch
from torch import nn

from recipes.demo_model.network import (
    Adapter,
    Network,
    PatchEmbedding,
    VisionAttention,
    VisionLayer,
)

_PICTURES_LOUDER = 32.0  # against the 8 they are divided by, and what the adapter's gates let go
_ALIKE = 0.35  # correlation of keys and queries


def initialise(network: Network) -> None:
    """Give all parameters their first values."""
    network.apply(_begin)


def _begin(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.5)
    elif isinstance(module, Adapter):  # so that pictures enter as loud as words
        module.dense_4h_to_h.weight.data *= _PICTURES_LOUDER
    elif isinstance(module, VisionAttention):
        _begin_alike(module.query_key_value.weight)
    elif isinstance(module, PatchEmbedding):
        _begin_with_waves(module.position_embedding.weight)
    elif isinstance(module, VisionLayer):  # the branches are normalised: they begin small
        nn.init.constant_(module.input_layernorm.weight, 0.5)
        nn.init.constant_(module.post_attention_layernorm.weight, 0.5)


@torch.no_grad()
def _begin_alike(query_key_value: torch.Tensor) -> None:
    """Let keys begin akin to queries: a patch then looks at its neighbours and at its like.

    The idea of mimetic initialisation (Trockman and Kolter, 2023), which small towers learn faster
    from.
    """
    query, key, _ = query_key_value.chunk(3)
    key.copy_(_ALIKE * query + math.sqrt(1 - _ALIKE**2) * key)


@torch.no_grad()
def _begin_with_waves(positions: torch.Tensor) -> None:
    """Let positions begin as sines and cosines of row and column: neighbours are alike.

    `positions` [1 + grid * grid, width]; waves are 3 to 4 * grid patches long.
    """
    rows, width = positions.shape
    grid = math.isqrt(rows - 1)
    lengths = torch.logspace(math.log10(3), math.log10(4 * grid), width // 4)
    angles = 2 * math.pi * torch.arange(grid)[:, None] / lengths  # [grid, width / 4]
    waves = torch.cat((angles.sin(), angles.cos()), dim=1)  # [grid, width / 2]
    down = waves[:, None].expand(grid, grid, -1)
    across = waves[None].expand(grid, grid, -1)
    positions[1:] = torch.cat((down, across), dim=-1).flatten(0, 1) * math.sqrt(2)
