"""What the product with 8-bit weights refuses, or computes wrongly in silence.

Source: the help of npu_weight_quant_batchmatmul in torch_npu 2.13.0. Where that of
aclnnWeightQuantBatchMatmulV2 is narrower (scales on a 310P), the narrower rule holds. Of what the
help offers beside, the reference has none: 4-bit weights, quantized results, scales in 64 bits.
"""

from collections.abc import Mapping
from typing import Any

import torch

from tests.npu.pretend.contracts import (
    HALF,
    NZ,
    contract,
    format_of,
    is_310p,
    refuse,
    same_dtype,
)

_LARGEST = 65535
_BESIDE = ("quant_scale", "quant_offset", "weight_dtype")


@contract("npu::npu_weight_quant_batchmatmul")
def _weight_quant_batchmatmul(given: Mapping[str, Any]) -> None:
    x, weight = given["x"], given["weight"]
    refuse(any(given[name] is not None for name in _BESIDE), f"int8: no {', '.join(_BESIDE)}")
    refuse(given["inner_precise"] != 0, "int8: high precision")
    refuse(x.dtype not in HALF, "int8: x in float16 or bfloat16")
    refuse(weight.dtype != torch.int8, "int8: weights in int8")
    refuse(x.dim() != 2 or weight.dim() != 2, "int8: x is [M, K], the weight [K, N]")
    refuse(x.shape[1] != weight.shape[0], "int8: x is [M, K], the weight [K, N]")
    refuse(x.numel() == 0, "int8: no empty tensors")
    refuse(max(weight.shape) > _LARGEST, f"int8: K and N are at most {_LARGEST}")
    refuse(not _is_matrix(x) or not _is_matrix(weight), "int8: contiguous, or transposed")
    refuse(not x.is_contiguous() and len(x) > _LARGEST, "int8: M of a transposed x")
    refuse(format_of(weight) == NZ, "int8: weights in NZ in compiled graphs alone")
    _check_scales(given)
    _check_bias(given)


def _check_scales(given: Mapping[str, Any]) -> None:
    x, scale, offset = given["x"], given["antiquant_scale"], given["antiquant_offset"]
    group, (inputs, outputs) = given["antiquant_group_size"], given["weight"].shape
    refuse(not same_dtype(x, scale), "int8: scales in the dtype of x")
    if group:
        refuse(is_310p(), "int8: a 310P has no groups")
        refuse(group % 32 != 0 or not 32 <= group < inputs, "int8: groups are multiples of 32 < K")
        refuse(scale.shape != (-(-inputs // group), outputs), "int8: scales are [K / group, N]")
    elif is_310p():  # [1, N] in one help, [N, 1] in the other
        refuse(scale.shape not in [(outputs,), (1,)], "int8: scales are [N] on a 310P")
        refuse(not scale.is_contiguous(), "int8: contiguous scales on a 310P")
    else:
        shapes = [(outputs,), (1, outputs), (1,), (1, 1)]
        refuse(scale.shape not in shapes, "int8: scales are [N] or [1, N]")
    refuse(scale.dim() == 2 and not _is_matrix(scale), "int8: contiguous or transposed scales")
    if offset is not None:
        refuse(not same_dtype(scale, offset), "int8: offsets in the dtype of scales")
        refuse(offset.shape != scale.shape, "int8: an offset for each scale")


def _check_bias(given: Mapping[str, Any]) -> None:
    x, bias, outputs = given["x"], given["bias"], given["weight"].shape[1]
    if bias is None:
        return
    wanted = torch.float32 if x.dtype == torch.bfloat16 else x.dtype
    refuse(bias.dtype != wanted, "int8: a bias in float16, beside bfloat16 in float32")
    refuse(bias.shape not in [(outputs,), (1, outputs)], "int8: a bias is [N] or [1, N]")
    refuse(not bias.is_contiguous(), "int8: a contiguous bias")


def _is_matrix(tensor: torch.Tensor) -> bool:
    """Contiguous, or the transpose of what is."""
    return tensor.is_contiguous() or tensor.t().is_contiguous()
