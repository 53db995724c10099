"""Multiplication by a fixed weight, by the fastest way the weight's device has."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch.nn import functional

# What becomes of a product: GELU of each value, exact; or SiLU of the first half of the columns
# times the second half.
Then = Literal["nothing", "gelu", "silu_gate"]


class Linear(ABC):
    """then(x @ weight.T + bias) for a weight that never changes."""

    @abstractmethod
    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out], half of that behind a gate; in the dtype of `rows`."""


class PlainLinear(Linear):
    """torch's own product, for every device and dtype."""

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None = None, *, then: Then = "nothing"
    ) -> None:
        self._weight = weight
        self._bias = bias
        self._then = then

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        product = functional.linear(rows, self._weight, self._bias)
        if self._then == "gelu":
            return functional.gelu(product)
        if self._then == "silu_gate":
            gate, up = product.chunk(2, dim=-1)
            return functional.silu(gate) * up
        return product
