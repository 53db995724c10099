"""Products with weights in panels."""

import ctypes

import torch

from glm4v.device.cpu.kernels.library import Kernels, Weight, check_floats
from glm4v.device.linear import Linear, Then

_CODES: dict[Then, int] = {"nothing": 0, "gelu": 1, "silu_gate": 2}  # Then in source/product.h


class PackedWeight:
    """A weight as the kernels keep it, with the memory it lies in.

    weight [out, in], bias [out] float32; `bits` 16 keeps bfloat16, to which values are rounded.
    `then` as with `Device.linear`. Raises ValueError for other shapes and dtypes.
    """

    def __init__(
        self,
        kernels: Kernels,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        *,
        bits: int,
        then: Then = "nothing",
    ) -> None:
        if bits == 16:
            weight = weight.bfloat16().float()
        weight = weight.contiguous()
        rows, inputs = weight.shape
        check_floats("a weight", weight, (rows, inputs))
        if then == "silu_gate" and rows % 2:
            raise ValueError(f"a gate and what it gates are {rows} rows together")
        self.columns = rows // 2 if then == "silu_gate" else rows
        self.struct = Weight(self.columns, inputs, None, None, bits, _CODES[then])
        at = ctypes.byref(self.struct)
        lines = kernels.panels(at) * kernels.panel
        self._panels = kernels.memory(lines * inputs * bits // 8)
        self.struct.panels = self._panels.data_ptr()
        kernels.pack(at, weight.data_ptr(), self._panels.data_ptr())
        if bias is not None:
            bias = bias.contiguous()
            check_floats("a bias", bias, (rows,))
            self._bias = kernels.memory(lines * 4)
            self.struct.bias = self._bias.data_ptr()
            kernels.pack_bias(at, bias.data_ptr(), self._bias.data_ptr())


class KernelLinear(Linear):
    """A product; a row's result does not depend on the rows beside it."""

    def __init__(
        self,
        kernels: Kernels,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        *,
        bits: int,
        then: Then = "nothing",
    ) -> None:
        self._kernels = kernels
        self._weight = PackedWeight(kernels, weight, bias, bits=bits, then=then)
        self._at = ctypes.addressof(self._weight.struct)
        self._inputs = weight.shape[1]

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]. Raises ValueError for another width or dtype."""
        rows = rows.contiguous()
        check_floats("rows", rows, (*rows.shape[:-1], self._inputs))
        product = torch.empty(*rows.shape[:-1], self._weight.columns)
        count = rows.numel() // self._inputs
        self._kernels.product(self._at, count, rows.data_ptr(), product.data_ptr())
        return product
