"""What the kernels refuse, and nothing on the host checks.

Sources: the operators' help in torch_npu 2.13.0 (`_op_plugin_docs.py`), op-plugin's C++ for `atb::`
and, where the help contradicts what vllm-ascend runs every day (TND with a block table; head size
128 in float16), what is run.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch

from tests.npu.pretend.memory import alias, is_npu

HALF = (torch.float16, torch.bfloat16)
_MASK = (2048, 2048)
_PROBED = [0, 1, 1000, 2047]  # rows of a mask that are looked at
ND, NZ = 2, 29
_CONTRACTS: dict[str, Callable[[Mapping[str, Any]], None]] = {}


class Refused(ValueError):
    """The real kernel would fail, or compute nonsense; the text is the rule."""


def check_contract(name: str, given: Mapping[str, Any]) -> None:
    """Refuse a call of the operator `name`, arguments by name, that breaks its rules."""
    for value in given.values():
        if is_npu(value):
            is_bfloat16 = value.dtype == torch.bfloat16
            refuse(is_bfloat16 and is_310p(), f"{name}: the 310P has no bfloat16")
            refuse(
                name.startswith("aten::") and _is_part_in_nz(value),
                f"{name}: PyTorch's operators take a part of a tensor in NZ for one in ND",
            )
    if (check := _CONTRACTS.get(name)) is not None:
        check(given)


def _is_part_in_nz(tensor: torch.Tensor) -> bool:
    is_part = tensor.numel() * tensor.itemsize < tensor.untyped_storage().nbytes()
    return is_part and format_of(tensor) == NZ


def refuse(broken: bool, rule: str) -> None:
    """Raise Refused with the rule if it is broken."""
    if broken:
        raise Refused(rule)


@cache
def is_310p() -> bool:
    """Whether the pretend device is a 310P."""
    import torch_npu

    name: str = torch_npu.npu.get_device_name(0)
    return name.startswith("Ascend310P")


def contract(*names: str) -> Callable[..., Any]:
    """The decorated function knows the rules of the operators `names`."""

    def keep(function: Callable[[Mapping[str, Any]], None]) -> Callable[..., Any]:
        for name in names:
            _CONTRACTS[name] = function
        return function

    return keep


@cache
def _hidden() -> torch.Tensor:
    """What a causal mask hides in the probed rows."""
    return torch.arange(_MASK[1]) > torch.tensor(_PROBED)[:, None]


def same_dtype(*tensors: torch.Tensor) -> bool:
    """Whether all have one dtype."""
    return len({tensor.dtype for tensor in tensors}) == 1


def _is_rising(lengths: list[int]) -> bool:
    return all(0 <= a <= b for a, b in zip([0, *lengths], lengths, strict=False))


def format_of(tensor: torch.Tensor) -> int:
    """Its aclFormat."""
    import torch_npu

    found: int = torch_npu.get_npu_format(tensor)
    return found


@contract("npu::npu_rms_norm")
def _rms_norm(given: Mapping[str, Any]) -> None:
    x, gamma = given["input"], given["gamma"]
    refuse(not same_dtype(x, gamma), "rms_norm: gamma has the dtype of the input")
    refuse(gamma.shape != x.shape[-1:], "rms_norm: gamma is as long as the last dimension")


@contract("npu::npu_add_rms_norm")
def _add_rms_norm(given: Mapping[str, Any]) -> None:
    x1, x2, gamma = given["x1"], given["x2"], given["gamma"]
    refuse(not same_dtype(x1, x2, gamma), "add_rms_norm: one dtype")
    refuse(x1.shape != x2.shape, "add_rms_norm: both inputs have one shape")
    refuse(gamma.shape != x1.shape[-1:], "add_rms_norm: gamma is as long as the last dimension")


@contract("npu::npu_swiglu")
def _swiglu(given: Mapping[str, Any]) -> None:
    refuse(is_310p(), "swiglu: listed for the A2 alone")
    refuse(given["input"].shape[given["dim"]] % 2 != 0, "swiglu: an even dimension")


@contract("npu::npu_apply_rotary_pos_emb")
def _apply_rotary_pos_emb(given: Mapping[str, Any]) -> None:
    query, key, cos, sin = (given[name] for name in ("query", "key", "cos", "sin"))
    refuse(given["rotary_mode"] != "half", "rotary: A2, A3 and 310P have the mode 'half' alone")
    refuse(given["layout"] not in ("BSND", "TND"), "rotary: layouts BSND and TND")
    refuse(not same_dtype(query, key, cos, sin), "rotary: one dtype")
    refuse(query.dim() != (3 if given["layout"] == "TND" else 4), "rotary: TND has 3 dimensions")
    widths = {tensor.shape[-1] for tensor in (query, key, cos, sin)}
    refuse(len(widths) != 1 or not widths <= {64, 128}, "rotary: 64 or 128 wide, all alike")
    refuse(cos.shape[-2] != 1 or sin.shape != cos.shape, "rotary: one head of cosines and sines")
    refuse(len({len(t) for t in (query, key, cos, sin)}) != 1, "rotary: one number of tokens")
    refuse(
        not all(tensor.is_contiguous() for tensor in (query, key)),
        "rotary: works in place, so on contiguous tensors",
    )


@contract("npu::npu_format_cast")
def _format_cast(given: Mapping[str, Any]) -> None:
    refuse(given["input"].dtype == torch.float32, "format_cast: NZ holds no float32")


@contract("npu::npu_scatter_pa_kv_cache")
def _scatter_pa_kv_cache(given: Mapping[str, Any]) -> None:
    key, value, slots = given["key"], given["value"], given["slot_mapping"]
    caches = (given["key_cache"], given["value_cache"])
    refuse(is_310p(), "scatter_pa_kv_cache: listed for A2 and A3 alone")
    refuse(not same_dtype(key, value, *caches), "scatter_pa_kv_cache: one dtype")
    refuse(slots.dtype not in (torch.int32, torch.int64), "scatter_pa_kv_cache: slots are ints")
    refuse(
        not all(tensor.is_contiguous() for tensor in (key, value, slots, *caches)),
        "scatter_pa_kv_cache: contiguous tensors alone",
    )
    wanted = ND if given["cache_mode"] in (None, "Norm") else NZ
    refuse(
        any(format_of(cache) not in (wanted, *([0] if wanted == ND else [])) for cache in caches),
        "scatter_pa_kv_cache: 'Norm' is for caches in ND, 'PA_NZ' for NZ",
    )
    refuse(
        wanted == ND and any(cache.shape[2:] != key.shape[1:] for cache in caches),
        "scatter_pa_kv_cache: caches are [blocks, block_size, heads, dim]",
    )
    _check_slots(slots, caches[0].shape[0] * caches[0].shape[1])


def _check_slots(slots: torch.Tensor, count: int) -> None:
    values = alias(slots)
    refuse(len(values) == 0, "slots: at least one")
    refuse(bool(values.min() < 0 or values.max() >= count), "slots: within the cache")
    refuse(len(values.unique()) != len(values), "slots: none twice")


@contract(
    "npu::npu_fused_infer_attention_score",
    "npu::npu_fused_infer_attention_score.out",
    "npu::_npu_fused_infer_attention_score_get_max_workspace",
)
def _fused_infer_attention_score(given: Mapping[str, Any]) -> None:
    query, key, value = (given[name] for name in ("query", "key", "value"))
    heads, kv_heads = given["num_heads"], given["num_key_value_heads"] or given["num_heads"]
    refuse(is_310p(), "fused attention: not listed for the 310P")
    refuse(
        query.dtype not in HALF or not same_dtype(query, key, value),
        "fused attention: float16 or bfloat16, one for all",
    )
    refuse(
        not all(tensor.is_contiguous() for tensor in (query, key, value)),
        "fused attention: contiguous tensors alone",
    )
    refuse(heads % kv_heads != 0 or heads // kv_heads > 64, "fused attention: at most 64 to one")
    refuse(given["input_layout"] != "TND", "fused attention: the reference has TND alone")
    refuse(query.dim() != 3 or query.shape[1] != heads, "fused attention: [T, num_heads, D]")
    refuse(query.shape[-1] != 128, "fused attention: TND is run with heads of 128 alone")
    _check_lengths(given, query)
    _check_mask(given)
    if given["block_table"] is not None:
        _check_pages(given, key, value, kv_heads * query.shape[-1])
    else:
        refuse(key.shape[1] != kv_heads, "fused attention: keys are [T, num_key_value_heads, D]")


def _check_lengths(given: Mapping[str, Any], query: torch.Tensor) -> None:
    ends, contexts = given["actual_seq_lengths"], given["actual_seq_lengths_kv"]
    refuse(ends is None or contexts is None, "fused attention: TND needs both lists of lengths")
    refuse(len(ends) != len(contexts), "fused attention: a context for each sequence")
    refuse(
        not _is_rising(ends) or ends[-1] > len(query),
        "fused attention: actual_seq_lengths are running totals, T at most",
    )


def _check_mask(given: Mapping[str, Any]) -> None:
    mask, mode = given["atten_mask"], given["sparse_mode"]
    refuse(mode not in (0, 3), "fused attention: the reference has the sparse modes 0 and 3")
    refuse(
        mode == 3 and (mask is None or tuple(mask.shape) != _MASK),
        "fused attention: sparse mode 3 needs the mask of 2048 x 2048",
    )
    if mask is not None:
        refuse(mask.dtype not in (torch.bool, torch.int8, torch.uint8), "fused attention: mask")
        rows = alias(mask)[_PROBED].bool()
        refuse(not torch.equal(rows, _hidden()), "fused attention: 1 hides what lies above")


def _check_pages(
    given: Mapping[str, Any], key: torch.Tensor, value: torch.Tensor, width: int
) -> None:
    table, size, contexts = (
        given["block_table"],
        given["block_size"],
        given["actual_seq_lengths_kv"],
    )
    refuse(table.dtype != torch.int32 or table.dim() != 2, "block_table: int32, two dimensions")
    refuse(len(table) != len(contexts), "block_table: a row for each sequence")
    refuse(size % 128 != 0 or not 128 <= size <= 512, "block_size: 128, 256, 384 or 512")
    refuse(key.shape != value.shape, "paged: keys and values of one shape")
    refuse(key.shape[1:] != (size, width), "paged: caches are [blocks, block_size, heads * dim]")
    refuse(key.numel() > 2**31 - 1, "paged: a cache has fewer than 2^31 values")
    refuse(max(contexts) > table.shape[1] * size, "block_table: too narrow for a context")
    used = alias(table)
    refuse(bool(used.min() < 0 or used.max() >= len(key)), "block_table: blocks of the cache")


@contract("atb::_npu_reshape_and_cache")
def _reshape_and_cache(given: Mapping[str, Any]) -> None:
    key, value, slots = given["key"], given["value"], given["slot_indices"]
    caches = (given["key_cache"], given["value_cache"])
    refuse(not same_dtype(key, value, *caches), "reshape_and_cache: one dtype")
    refuse(slots.dtype != torch.int32, "reshape_and_cache: slots are int32")
    refuse(not all(t.is_contiguous() for t in (key, value)), "reshape_and_cache: contiguous")
    _check_nz_caches(*caches, key.shape[1] * key.shape[2])
    _check_slots(slots, caches[0].shape[0] * caches[0].shape[2])


@contract("atb::_npu_paged_attention", "atb::_npu_paged_attention_splitfuse_v2")
def _paged_attention(given: Mapping[str, Any]) -> None:
    query, out, table = given["query"], given["out"], given["block_table"]
    heads, kv_heads, dim = given["num_heads"], given["num_kv_heads"], query.shape[-1]
    caches = (given["key_cache"], given["value_cache"])
    refuse(query.dtype not in HALF or not same_dtype(query, out, *caches), "paged: one half dtype")
    refuse(query.shape[1] != heads or heads % kv_heads != 0, "paged: [T, num_heads, D]")
    refuse(not query.is_contiguous() or out.shape != query.shape, "paged: contiguous, out alike")
    _check_nz_caches(*caches, kv_heads * dim)
    lengths = given["context_lens"]
    refuse(table.dtype != torch.int32 or lengths.dtype != torch.int32, "paged: int32 tables")
    refuse(len(table) != len(lengths), "paged: a row of the table for each sequence")
    longest = int(alias(lengths).max())
    refuse(longest > table.shape[1] * caches[0].shape[2], "paged: the table is too narrow")
    refuse(bool(alias(table).max() >= len(caches[0])), "paged: blocks of the cache")
    if "seq_len" in given:
        _check_splitfuse(given, query)
    else:
        refuse(len(lengths) != len(query), "paged attention: one token of each sequence")


def _check_splitfuse(given: Mapping[str, Any], query: torch.Tensor) -> None:
    mask = given["mask"]
    refuse(given["mask_type"] != 5, "splitfuse: mask_type 5 (NORM_COMPRESS) alone")
    refuse(
        mask is None or tuple(mask.shape) != _MASK or mask.dtype != query.dtype,
        "splitfuse: needs the mask of 2048 x 2048",
    )
    rows, hidden = alias(mask)[_PROBED], _hidden()
    refuse(bool((rows[hidden] > -9999).any() or rows[~hidden].any()), "splitfuse: mask values")
    _check_host_lengths(given["seq_len"], query, "splitfuse")


def _check_host_lengths(lengths: torch.Tensor, query: torch.Tensor, name: str) -> None:
    refuse(lengths.dtype != torch.int32, f"{name}: seq_len is int32, as vllm-ascend passes it")
    refuse(int(lengths.sum()) != len(query), f"{name}: seq_len sums to T")


def _check_nz_caches(key: torch.Tensor, value: torch.Tensor, width: int) -> None:
    refuse(not is_310p(), "NZ caches: the layout of the 310P")
    refuse(any(format_of(cache) != NZ for cache in (key, value)), "NZ caches: format 29")
    refuse(key.shape != value.shape or key.dim() != 4, "NZ caches: [blocks, tiles, size, 16]")
    refuse(key.shape[1] * key.shape[3] != width or key.shape[3] != 16, "NZ caches: tiles of 16")
    refuse(key.shape[2] not in (64, 128), "NZ caches: blocks of 64 or 128 tokens")


@contract("atb::_npu_flash_attention_unpad")
def _flash_attention_unpad(given: Mapping[str, Any]) -> None:
    query, key, value, out = (given[name] for name in ("query", "key", "value", "out"))
    refuse(
        query.dtype not in HALF or not same_dtype(query, key, value, out),
        "flash attention: one half dtype",
    )
    refuse(query.shape[1] != given["num_heads"], "flash attention: [T, num_heads, D]")
    refuse(key.shape[1] != given["num_kv_heads"], "flash attention: [T, num_kv_heads, D]")
    refuse(query.shape[-1] % 16 != 0 or query.shape[-1] > 128, "flash attention: D to 128, by 16")
    _check_host_lengths(given["seq_len"], query, "flash attention")


@contract("npu::npu_top_k_top_p")
def _top_k_top_p(given: Mapping[str, Any]) -> None:
    logits, p, k = given["logits"], given["p"], given["k"]
    refuse(is_310p(), "top_k_top_p: listed for A2 and A3 alone")
    refuse(p is None or k is None, "top_k_top_p: both, since with p alone it cannot be traced")
    refuse(p.dtype != logits.dtype or k.dtype != torch.int32, "top_k_top_p: dtypes of p and k")
    values = alias(k)
    refuse(bool(values.min() < 1 or values.max() > 1024), "top_k_top_p: k from 1 to 1024")
