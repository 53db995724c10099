"""Multiplication by a fixed weight, by the fastest exact way the weight's device has."""

import torch
from torch.nn import functional

# The layout oneDNN picks for one row is slow for more; the one for a few rows is good for all.
_ROWS_PACKED_FOR = 8


class Linear:
    """x @ weight.T + bias for a weight that never changes; takes the weight over."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._packed = _can_pack(weight)
        if self._packed:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_PACKED_FOR)
        self._weight = weight
        self._bias = bias

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        if self._packed:
            product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
                rows, self._weight, self._bias, "none", [], ""
            )
            return product
        return functional.linear(rows, self._weight, self._bias)


def _can_pack(weight: torch.Tensor) -> bool:
    """Whether oneDNN's packed single-precision product is there; it gives the same sums, faster."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
