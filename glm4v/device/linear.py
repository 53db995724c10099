"""Multiplication by a fixed weight, by the fastest way the weight's device has.

What a processor with vector units reaches with the shapes of a decoder (5120 x 768 and the like,
beyond its caches, 2 cores with AVX-512; billions of weights a second):

    rows                            1     4     16     64    256   1025
    torch's own float32           3.2   2.2    2.1   0.99   0.23   0.08
    oneDNN, packed float32        6.4   7.3    4.7   1.60   0.41   0.10
    fbgemm, packed 16 bits       16.3  14.7    5.5   1.56   0.37   0.10

So 16 bits win wherever a weight is read for few rows, and packed float32 by some percent where
there are always many. Both give a row the same result whatever rows stand beside it.
"""

from abc import ABC, abstractmethod

import torch
from torch.nn import functional

# The layout oneDNN picks for one row is slow for more; the one for a few rows is good for all.
_ROWS_PACKED_FOR = 8
# Fewer rows than these take longer than these: the product of one row is another one.
_FEWEST_ROWS = 4
# Rounding to 11 bits changes a matrix by less than 2**-12 of it: more means out of range.
_WORST_ROUNDING = 2.0**-11
_ROWS_CHECKED_AT_ONCE = 4096


class Linear(ABC):
    """x @ weight.T + bias for a weight that never changes."""

    @abstractmethod
    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out], in the dtype of `rows`."""


class PlainLinear(Linear):
    """torch's own product, for every device and dtype."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._weight = weight
        self._bias = bias

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        return functional.linear(rows, self._weight, self._bias)


class PackedLinear(Linear):
    """oneDNN's product with a float32 weight in its own layout: the same sums, faster."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_PACKED_FOR)
        self._bias = bias
        self._product = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        count = len(rows)
        if rows.dim() == 2 and count < _FEWEST_ROWS:
            rows = functional.pad(rows, (0, 0, 0, _FEWEST_ROWS - count))
        product: torch.Tensor = self._product(rows, self._weight, self._bias, "none", [], "")
        return product[:count]

    @staticmethod
    def is_available() -> bool:
        """Whether this build of torch has it."""
        available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        return available and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class HalfWeightLinear(Linear):
    """fbgemm's product: the weight is kept in float16, all arithmetic is float32.

    The caller has asked `fits_half`: a weight out of range would be cut to the largest float16.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._weight = torch.ops.quantized.linear_prepack_fp16(weight, bias)
        self._product = torch.ops.quantized.linear_dynamic_fp16.default

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        product: torch.Tensor = self._product(rows, self._weight)
        return product

    @staticmethod
    def is_available() -> bool:
        """Whether this build of torch and this processor have it."""
        return torch.backends.quantized.engine in ("fbgemm", "x86")


def fits_half(weight: torch.Tensor) -> bool:
    """Whether rounding `weight` to float16 changes it by nothing but rounding.

    Not when values overflow (65504 is the largest) or when so many are below 6e-5, where float16
    loses bits, that the matrix as a whole changes. bfloat16 values in range are kept exactly.
    """
    lost = whole = 0.0
    for rows in torch.split(weight, _ROWS_CHECKED_AT_ONCE):
        lost += float((rows.half().float() - rows).double().square().sum())
        whole += float(rows.double().square().sum())
    return lost <= _WORST_ROUNDING**2 * whole
