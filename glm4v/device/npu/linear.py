"""Matrix products, with weights in the format that the chip reads fastest."""

import torch
import torch_npu
from torch.nn import functional

from glm4v.device.linear import Epilogue, Linear

FRACTAL_NZ = 29  # aclFormat: 16 x 16 tiles, column of tiles by column of tiles


class NpuLinear(Linear):
    """A product on an A2, followed by fused operators."""

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None = None, *, epilogue: Epilogue = "none"
    ) -> None:
        self._weight = weight
        self._bias = bias
        self._epilogue = epilogue

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out], or [..., out / 2] with a gate."""
        y = functional.linear(x, self._weight, self._bias)
        if self._epilogue == "gelu":
            y = torch_npu.npu_gelu(y, approximate="none")
        elif self._epilogue == "silu_gate":
            y = self._silu_gate(y)
        return y

    def _silu_gate(self, y: torch.Tensor) -> torch.Tensor:
        gated: torch.Tensor = torch_npu.npu_swiglu(y)
        return gated


class NzLinear(NpuLinear):
    """A product on a 310P: the weight is cast to NZ once; a gate takes torch's operators there."""

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None = None, *, epilogue: Epilogue = "none"
    ) -> None:
        super().__init__(torch_npu.npu_format_cast(weight, FRACTAL_NZ), bias, epilogue=epilogue)

    def _silu_gate(self, y: torch.Tensor) -> torch.Tensor:
        gate, up = y.chunk(2, dim=-1)
        return functional.silu(gate) * up
