"""Matrix products with a fixed weight."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch.nn import functional

# The function applied to a product: none; GELU, the exact one; or SiLU of the first half of the
# columns times the second half.
Epilogue = Literal["none", "gelu", "silu_gate"]


class Linear(ABC):
    """epilogue(x @ weight.T + bias) for a weight that never changes."""

    @abstractmethod
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out], or [..., out / 2] with a gate; in the dtype of `x`."""


class PlainLinear(Linear):
    """torch's own product, for every device and dtype."""

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        *,
        epilogue: Epilogue = "none",
    ) -> None:
        self._weight = weight
        self._bias = bias
        self._epilogue = epilogue

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        y = functional.linear(x, self._weight, self._bias)
        if self._epilogue == "gelu":
            return functional.gelu(y)
        if self._epilogue == "silu_gate":
            gate, up = y.chunk(2, dim=-1)
            return functional.silu(gate) * up
        return y
