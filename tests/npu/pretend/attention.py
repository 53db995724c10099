"""Attention over one sequence, and the layouts of paged caches."""

import torch


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, *, causal: bool
) -> torch.Tensor:
    """query [tokens, heads, dim], key and value [context, kv_heads, dim] -> like the query.

    Causal: the last query sees all of the context, the one before one token fewer, and so on.
    """
    tokens, heads, _ = query.shape
    context, kv_heads, _ = key.shape
    queries = query.float().transpose(0, 1)
    keys, values = (
        part.float().transpose(0, 1).repeat_interleave(heads // kv_heads, 0)
        for part in (key, value)
    )
    scores = queries @ keys.transpose(1, 2) * scale
    if causal:
        hidden = torch.ones((tokens, context), dtype=torch.bool).triu(context - tokens + 1)
        scores.masked_fill_(hidden, float("-inf"))
    return (scores.softmax(-1) @ values).transpose(0, 1).to(query.dtype)


def paged(cache: torch.Tensor, blocks: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """A sequence's [tokens, kv_heads, dim] of a cache [blocks, block_size, kv_heads * dim]."""
    tokens = cache[blocks.long()].flatten(0, 1)
    return tokens.view(len(tokens), kv_heads, -1)


def paged_nz(cache: torch.Tensor, blocks: torch.Tensor, dim: int) -> torch.Tensor:
    """The same of a cache [blocks, kv_heads * dim / 16, block_size, 16]."""
    tiles = cache[blocks.long()].transpose(1, 2)  # [blocks, block_size, tiles, 16]
    return tiles.reshape(tiles.shape[0] * tiles.shape[1], -1, dim)
