"""Matrix products in 16 bits, and what follows a product of either width."""

from collections.abc import Callable

import torch
import torch_npu
from torch.nn import functional

from glm4v.device.linear import Epilogue, Linear

FRACTAL_NZ = 29  # aclFormat: 16 x 16 tiles, column of tiles by column of tiles
Product = Callable[[torch.Tensor], torch.Tensor]  # [..., in] -> [..., out]


class HalfProduct:
    """x @ weight.T + bias in the dtype of both; a 310P's weight is cast to NZ once."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, *, is_310p: bool) -> None:
        self._weight = torch_npu.npu_format_cast(weight, FRACTAL_NZ) if is_310p else weight
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        return functional.linear(x, self._weight, self._bias)


class NpuLinear(Linear):
    """A product and its epilogue; a gate takes torch's operators on a 310P."""

    def __init__(self, product: Product, *, epilogue: Epilogue, is_310p: bool) -> None:
        self._product = product
        self._epilogue = epilogue
        self._is_310p = is_310p

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out], or [..., out / 2] with a gate."""
        y = self._product(x)
        if self._epilogue == "gelu":
            y = torch_npu.npu_gelu(y, approximate="none")
        elif self._epilogue == "silu_gate":
            y = self._silu_gate(y)
        return y

    def _silu_gate(self, y: torch.Tensor) -> torch.Tensor:
        if self._is_310p:
            gate, up = y.chunk(2, dim=-1)
            return functional.silu(gate) * up
        gated: torch.Tensor = torch_npu.npu_swiglu(y)
        return gated
