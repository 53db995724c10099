"""Attention of every token to every token, for the vision tower.

Its heads of 112 are filled up with zeros to 128, the size the kernels are run with elsewhere; the
zeros change no product and are cut off behind.
"""

import math

import torch
import torch_npu

from glm4v.device.npu.attention import pad_heads


def attend_all_fused(qkv: torch.Tensor) -> torch.Tensor:
    """On an A2: [batch, tokens, 3, heads, head_dim] -> [batch, tokens, heads, head_dim]."""
    query, key, value = _flat(qkv)
    ends = list(range(qkv.shape[1], len(query) + 1, qkv.shape[1]))
    attended, _ = torch_npu.npu_fused_infer_attention_score(
        query,
        key,
        value,
        input_layout="TND",
        actual_seq_lengths=ends,
        actual_seq_lengths_kv=ends,
        num_heads=query.shape[1],
        num_key_value_heads=query.shape[1],
        scale=1 / math.sqrt(qkv.shape[-1]),
        sparse_mode=0,
    )
    return _as_batch(attended, qkv)


def attend_all_atb(qkv: torch.Tensor) -> torch.Tensor:
    """On a 310P: the same."""
    query, key, value = _flat(qkv)
    attended = torch.empty_like(query)
    torch_npu._npu_flash_attention_unpad(
        query=query,
        key=key,
        value=value,
        seq_len=torch.full((len(qkv),), qkv.shape[1], dtype=torch.int32),  # read on the host
        scale_value=1 / math.sqrt(qkv.shape[-1]),
        num_heads=query.shape[1],
        num_kv_heads=query.shape[1],
        out=attended,
    )
    return _as_batch(attended, qkv)


def _flat(qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values, [batch * tokens, heads, 128] each."""
    query, key, value = (pad_heads(part).flatten(0, 1) for part in qkv.unbind(2))
    return query, key, value


def _as_batch(attended: torch.Tensor, qkv: torch.Tensor) -> torch.Tensor:
    """[batch * tokens, heads, 128] -> [batch, tokens, heads, head_dim]."""
    return attended.view(*qkv.shape[:2], *attended.shape[1:])[..., : qkv.shape[-1]]
