"""L1: every operator in use, called on Meta against the real package, with its schema as committed.

Meta kernels check names, Python types and some shapes; the contracts know more. Operators of
`atb::` have no Meta kernel: their arguments are bound to the schema alone.
"""

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest
import torch

from glm4v.device import Device
from tests.npu.schemas import USED, canonical, committed

CHECKED = set(USED)
HALF = torch.float16
TOKENS, HEADS, KV_HEADS, DIM, BLOCK, BLOCKS = 10, 8, 2, 128, 128, 16
OTHER_VERSIONS = ("2.10.0.post4",)  # that NPU serving images pin (vllm-ascend)


def empty(*shape: int, dtype: torch.dtype = HALF) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def ints(*shape: int) -> torch.Tensor:
    return empty(*shape, dtype=torch.int32)


FUSED: dict[str, Any] = {
    "query": empty(TOKENS, HEADS, DIM),
    "key": empty(BLOCKS, BLOCK, KV_HEADS * DIM),
    "value": empty(BLOCKS, BLOCK, KV_HEADS * DIM),
    "atten_mask": empty(2048, 2048, dtype=torch.int8),
    "block_table": ints(3, 8),
    "block_size": BLOCK,
    "input_layout": "TND",
    "actual_seq_lengths": [4, 7, 10],
    "actual_seq_lengths_kv": [4, 20, 30],
    "num_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "scale": 0.1,
    "sparse_mode": 3,
}
CACHE = empty(BLOCKS, KV_HEADS * DIM // 16, BLOCK, 16)
PAGED: dict[str, Any] = {
    "query": empty(TOKENS, HEADS, DIM),
    "key_cache": CACHE,
    "value_cache": CACHE,
    "block_table": ints(TOKENS, 8),
    "context_lens": ints(TOKENS),
    "num_heads": HEADS,
    "num_kv_heads": KV_HEADS,
    "scale_value": 0.1,
    "out": empty(TOKENS, HEADS, DIM),
}
KEYS = empty(TOKENS, KV_HEADS, DIM)
CALLS: dict[str, dict[str, Any]] = {
    "npu::npu_rms_norm": {"input": empty(TOKENS, 64), "gamma": empty(64), "epsilon": 1e-6},
    "npu::npu_add_rms_norm": {
        "x1": empty(TOKENS, 64),
        "x2": empty(TOKENS, 64),
        "gamma": empty(64),
        "epsilon": 1e-6,
    },
    "npu::npu_apply_rotary_pos_emb": {
        "query": empty(TOKENS, HEADS, DIM),
        "key": KEYS,
        "cos": empty(TOKENS, 1, DIM),
        "sin": empty(TOKENS, 1, DIM),
        "layout": "TND",
        "rotary_mode": "half",
    },
    "npu::npu_swiglu": {"input": empty(TOKENS, 64)},
    "npu::npu_gelu": {"input": empty(TOKENS, 64), "approximate": "none"},
    "npu::npu_weight_quant_batchmatmul": {
        "x": empty(TOKENS, 96),
        "weight": empty(96, 48, dtype=torch.int8),
        "antiquant_scale": empty(2, 48),
        "antiquant_offset": empty(2, 48),
        "bias": empty(48),
        "antiquant_group_size": 64,
    },
    "npu::npu_scatter_pa_kv_cache": {
        "key": KEYS,
        "value": KEYS,
        "key_cache": empty(BLOCKS, BLOCK, KV_HEADS, DIM),
        "value_cache": empty(BLOCKS, BLOCK, KV_HEADS, DIM),
        "slot_mapping": ints(TOKENS),
        "cache_mode": "Norm",
    },
    "npu::npu_fused_infer_attention_score": FUSED,
    "npu::npu_fused_infer_attention_score.out": FUSED
    | {"workspace": empty(1), "out": [empty(TOKENS, HEADS, DIM), empty(0)]},
    "npu::_npu_fused_infer_attention_score_get_max_workspace": FUSED,
    "npu::npu_format_cast": {"input": empty(64, 64), "acl_format": 29},
    "npu::empty_with_format": {"size": [4, 4], "dtype": HALF, "acl_format": 29},
    "npu::npu_change_data_ptr": {"dst": CACHE, "src": CACHE, "index": 0},
    "atb::_npu_reshape_and_cache": {
        "key": KEYS,
        "value": KEYS,
        "key_cache": CACHE,
        "value_cache": CACHE,
        "slot_indices": ints(TOKENS),
    },
    "atb::_npu_paged_attention": PAGED,
    "atb::_npu_paged_attention_splitfuse_v2": PAGED
    | {"mask": empty(2048, 2048), "seq_len": ints(3), "mask_type": 5},
    "atb::_npu_flash_attention_unpad": {
        "query": empty(TOKENS, HEADS, DIM),
        "key": empty(TOKENS, HEADS, DIM),
        "value": empty(TOKENS, HEADS, DIM),
        "seq_len": ints(2),
        "scale_value": 0.1,
        "num_heads": HEADS,
        "num_kv_heads": HEADS,
        "out": empty(TOKENS, HEADS, DIM),
    },
}
RESULTS = {
    "npu::npu_rms_norm": [(TOKENS, 64), (TOKENS, 1)],
    "npu::npu_add_rms_norm": [(TOKENS, 64), (TOKENS, 1), (TOKENS, 64)],
    "npu::npu_apply_rotary_pos_emb": [(TOKENS, HEADS, DIM), (TOKENS, KV_HEADS, DIM)],
    "npu::npu_swiglu": [(TOKENS, 32)],
    "npu::npu_gelu": [(TOKENS, 64)],
    "npu::npu_weight_quant_batchmatmul": [(TOKENS, 48)],
    "npu::npu_fused_infer_attention_score": [(TOKENS, HEADS, DIM), (0,)],
}


def operator(name: str) -> torch._ops.OpOverload:
    """The overload `npu::x` or `npu::x.out`."""
    namespace, _, rest = name.partition("::")
    base, _, overload = rest.partition(".")
    found: torch._ops.OpOverload = getattr(
        getattr(getattr(torch.ops, namespace), base), overload or "default"
    )
    return found


@pytest.mark.parametrize("name", USED)
def test_the_operator_takes_our_arguments(name: str, npu: Device) -> None:
    func, arguments = operator(name), CALLS[name]
    known = {argument.name for argument in func._schema.arguments}
    assert set(arguments) <= known
    has_meta: Callable[[str, str], bool] = torch._C._dispatch_has_kernel_for_dispatch_key
    if not has_meta(name, "Meta"):
        return
    result = func(**arguments)
    results = [] if result is None else [result] if isinstance(result, torch.Tensor) else result
    assert [tuple(each.shape) for each in results] == RESULTS.get(name, [])


def test_schemas_are_those_committed(npu: Device) -> None:
    """A difference after an upgrade is to be read, and then committed."""
    expected = committed(version("torch_npu").partition("+")[0])
    assert {name: str(operator(name)._schema) for name in USED} == expected


@pytest.mark.parametrize("other", OTHER_VERSIONS)
def test_schemas_are_the_same_in_the_other_versions(other: str) -> None:
    assert committed(other) == committed("2.13.0")


def test_schemas_compare_whatever_their_blanks() -> None:
    assert canonical("f(Tensor x, *, int ? m = 3) -> ()", "atb") == (
        "atb::f(Tensor x, *, int? m=3) -> ()"
    )
