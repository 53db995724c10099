"""What each operator in use computes, in plain torch, from its published description.

Sources: the help in torch_npu 2.13.0; for `atb::`, which has none, the operators' C++ in
Ascend/op-plugin and their use in vllm-ascend.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from tests.npu.pretend.attention import attend, paged, paged_nz

REFERENCES: dict[str, Callable[..., Any]] = {}
_HALF = 2


def _reference(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def keep(function: Callable[..., Any]) -> Callable[..., Any]:
        REFERENCES[name] = function
        return function

    return keep


def _normed(x: torch.Tensor, gamma: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, ...]:
    reciprocal = torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)
    return x * reciprocal * gamma.float(), reciprocal


@_reference("npu::npu_rms_norm")
def rms_norm(x: torch.Tensor, gamma: torch.Tensor, epsilon: float = 1e-6) -> Any:
    normed, reciprocal = _normed(x.float(), gamma, epsilon)
    return normed.to(x.dtype), reciprocal


@_reference("npu::npu_add_rms_norm")
def add_rms_norm(
    x1: torch.Tensor, x2: torch.Tensor, gamma: torch.Tensor, epsilon: float = 1e-6
) -> Any:
    total = x1.float() + x2.float()
    normed, reciprocal = _normed(total, gamma, epsilon)
    return normed.to(x1.dtype), reciprocal, total.to(x1.dtype)


@_reference("npu::npu_swiglu")
def swiglu(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    gate, up = x.float().chunk(_HALF, dim)
    return (functional.silu(gate) * up).to(x.dtype)


@_reference("npu::npu_gelu")
def gelu(x: torch.Tensor, *, approximate: str = "none") -> torch.Tensor:
    return functional.gelu(x.float(), approximate=approximate).to(x.dtype)


@_reference("npu::npu_apply_rotary_pos_emb")
def apply_rotary_pos_emb(
    query: torch.Tensor,
    key: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    layout: str = "BSND",
    rotary_mode: str = "half",
) -> Any:
    """Its help says that it works in place: the inputs are spoilt here, for nobody to use them."""

    def rotated(x: torch.Tensor) -> torch.Tensor:
        first, second = x.float().chunk(_HALF, -1)
        turned = torch.cat((-second, first), -1)
        out = (x.float() * cos.float() + turned * sin.float()).to(x.dtype)
        x.fill_(float("nan"))
        return out

    return rotated(query), rotated(key)


@_reference("npu::npu_format_cast")
def format_cast(
    x: torch.Tensor,
    acl_format: int,
    *,
    customize_dtype: int | None = None,
    input_dtype: int | None = None,
) -> torch.Tensor:
    return x.clone()


@_reference("npu::npu_weight_quant_batchmatmul")
def weight_quant_batchmatmul(
    x: torch.Tensor,
    weight: torch.Tensor,
    antiquant_scale: torch.Tensor,
    antiquant_offset: torch.Tensor | None = None,
    quant_scale: torch.Tensor | None = None,
    quant_offset: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    antiquant_group_size: int = 0,
    inner_precise: int = 0,
    weight_dtype: int | None = None,
) -> torch.Tensor:
    """Its help does not say where it rounds: the weight is rounded to the dtype of x here."""
    group = antiquant_group_size or len(weight)

    def of_each_input(given: torch.Tensor) -> torch.Tensor:
        """[in, out] of one value for each output, or of each group of inputs."""
        rows = given.float().reshape(-1, weight.shape[1])
        return rows.repeat_interleave(group, 0)[: len(weight)]

    wide = weight.float()
    if antiquant_offset is not None:
        wide = wide + of_each_input(antiquant_offset)
    wide = (wide * of_each_input(antiquant_scale)).to(x.dtype)
    y = x.float() @ wide.float()
    return (y if bias is None else y + bias.float()).to(x.dtype)


@_reference("npu::npu_scatter_pa_kv_cache")
def scatter_pa_kv_cache(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    *,
    cache_mode: str = "PA_NZ",
    **_: Any,
) -> None:
    assert cache_mode == "Norm", "the contract allows no other"
    for new, cache in ((key, key_cache), (value, value_cache)):
        cache.view(-1, *cache.shape[2:])[slot_mapping.long()] = new


@_reference("npu::npu_fused_infer_attention_score")
def fused_infer_attention_score(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any
) -> Any:
    return _fused(query, key, value, **options), torch.empty(0)


@_reference("npu::npu_fused_infer_attention_score.out")
def fused_infer_attention_score_out(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    out: Sequence[torch.Tensor],
    workspace: torch.Tensor | None = None,
    **options: Any,
) -> Any:
    out[0].copy_(_fused(query, key, value, **options))
    return out[0], out[1]


@_reference("npu::_npu_fused_infer_attention_score_get_max_workspace")
def workspace_of(query: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return torch.empty(1, dtype=torch.uint8)


@_reference("npu::_npu_fused_infer_attention_score_infer_output")
def output_of(query: torch.Tensor, *_: Any, **__: Any) -> Any:
    return torch.empty_like(query), torch.empty(0)


def _fused(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    actual_seq_lengths: Sequence[int],
    actual_seq_lengths_kv: Sequence[int],
    num_heads: int = 1,
    num_key_value_heads: int = 0,
    scale: float = 1.0,
    sparse_mode: int = 0,
    block_table: torch.Tensor | None = None,
    **_: Any,
) -> torch.Tensor:
    """Queries of all sequences; the lists are running totals, those of keys lengths when paged."""
    output, start, key_start = torch.zeros_like(query), 0, 0
    for number, (end, key_end) in enumerate(
        zip(actual_seq_lengths, actual_seq_lengths_kv, strict=True)
    ):
        if block_table is None:
            keys, values = key[key_start:key_end], value[key_start:key_end]
            key_start = key_end
        else:
            blocks = block_table[number, : -(-key_end // key.shape[1])]
            keys, values = (
                paged(cache, blocks, num_key_value_heads or num_heads)[:key_end]
                for cache in (key, value)
            )
        output[start:end] = attend(query[start:end], keys, values, scale, causal=sparse_mode == 3)
        start = end
    return output


@_reference("atb::_npu_reshape_and_cache")
def reshape_and_cache(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_indices: torch.Tensor,
) -> None:
    block_size, tile = key_cache.shape[2:]
    block, at = slot_indices.long() // block_size, slot_indices.long() % block_size
    for new, cache in ((key, key_cache), (value, value_cache)):
        cache[block, :, at] = new.reshape(len(new), -1, tile)


@_reference("atb::_npu_paged_attention")
def paged_attention(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    num_kv_heads: int,
    num_heads: int,
    scale_value: float,
    block_table: torch.Tensor,
    context_lens: torch.Tensor,
    out: torch.Tensor,
    *,
    workspace: torch.Tensor | None = None,
) -> None:
    ones = [1] * len(query)
    _paged_nz(query, key_cache, value_cache, block_table, context_lens, ones, scale_value, out)


@_reference("atb::_npu_paged_attention_splitfuse_v2")
def paged_attention_splitfuse(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,
    context_lens: torch.Tensor,
    mask: torch.Tensor,
    seq_len: torch.Tensor,
    num_kv_heads: int,
    num_heads: int,
    scale_value: float,
    *,
    mask_type: int = 5,
    out: torch.Tensor,
) -> None:
    lengths = seq_len.tolist()
    _paged_nz(query, key_cache, value_cache, block_table, context_lens, lengths, scale_value, out)


def _paged_nz(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    block_table: torch.Tensor,
    context_lens: torch.Tensor,
    query_lens: Sequence[int],
    scale: float,
    out: torch.Tensor,
) -> None:
    start = 0
    for number, (count, context) in enumerate(zip(query_lens, context_lens.tolist(), strict=True)):
        keys, values = (
            paged_nz(cache, block_table[number], query.shape[-1])[:context]
            for cache in (key_cache, value_cache)
        )
        end = start + count
        out[start:end] = attend(query[start:end], keys, values, scale, causal=True)
        start = end


@_reference("atb::_npu_flash_attention_unpad")
def flash_attention_unpad(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    seq_len: torch.Tensor,
    scale_value: float,
    num_heads: int,
    num_kv_heads: int,
    out: torch.Tensor,
) -> None:
    start = 0
    for count in seq_len.tolist():
        own = slice(start, start + count)
        out[own] = attend(query[own], key[own], value[own], scale_value, causal=False)
        start += count
