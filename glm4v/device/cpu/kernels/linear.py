"""Matrix products with packed weights."""

import ctypes

import torch

from glm4v.device.cpu.kernels.library import Kernels, Weight, check_floats
from glm4v.device.linear import Epilogue, Linear

_CODES: dict[Epilogue, int] = {"none": 0, "gelu": 1, "silu_gate": 2}  # Epilogue in source/gemm.h


class PackedWeight:
    """A weight in the kernels' layout, and the memory that holds it.

    weight [out, in], bias [out], both float32. With `bits` 16, values are rounded to bfloat16.
    `epilogue` as in `Device.linear`. Raises ValueError for other shapes and dtypes.
    """

    def __init__(
        self,
        kernels: Kernels,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        *,
        bits: int,
        epilogue: Epilogue = "none",
    ) -> None:
        if bits == 16:
            weight = weight.bfloat16().float()
        weight = weight.contiguous()
        rows, in_features = weight.shape
        check_floats("weight", weight, (rows, in_features))
        if epilogue == "silu_gate" and rows % 2:
            raise ValueError(f"a gated weight needs an even number of rows, got {rows}")
        self.out_features = rows // 2 if epilogue == "silu_gate" else rows
        self.struct = Weight(self.out_features, in_features, None, None, bits, _CODES[epilogue])
        at = ctypes.byref(self.struct)
        columns = kernels.panel_count(at) * kernels.nr
        self._panels = kernels.memory(columns * in_features * bits // 8)
        self.struct.panels = self._panels.data_ptr()
        kernels.pack(at, weight.data_ptr(), self._panels.data_ptr())
        if bias is not None:
            bias = bias.contiguous()
            check_floats("bias", bias, (rows,))
            self._bias = kernels.memory(columns * 4)
            self.struct.bias = self._bias.data_ptr()
            kernels.pack_bias(at, bias.data_ptr(), self._bias.data_ptr())


class KernelLinear(Linear):
    """A product whose rows are independent: a result does not depend on the rest of the batch."""

    def __init__(
        self,
        kernels: Kernels,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        *,
        bits: int,
        epilogue: Epilogue = "none",
    ) -> None:
        self._kernels = kernels
        self._weight = PackedWeight(kernels, weight, bias, bits=bits, epilogue=epilogue)
        self._at = ctypes.addressof(self._weight.struct)
        self._in_features = weight.shape[1]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]. Raises ValueError for another width or dtype."""
        x = x.contiguous()
        check_floats("x", x, (*x.shape[:-1], self._in_features))
        y = torch.empty(*x.shape[:-1], self._weight.out_features)
        rows = x.numel() // self._in_features
        self._kernels.gemm(self._at, rows, x.data_ptr(), y.data_ptr())
        return y
