"""Products with weights in panels."""

import ctypes

import torch

from glm4v.device.kernels.library import Kernels, Weight
from glm4v.device.linear import Linear


class PackedWeight:
    """A weight as the kernels keep it, with the memory it lies in.

    weight [out, in], bias [out] float32; `bits` 16 keeps bfloat16, to which values are rounded.
    `is_gated`: the rows of weight are those of a gate, then as many that it gates.
    """

    def __init__(
        self,
        kernels: Kernels,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        *,
        bits: int,
        is_gated: bool = False,
    ) -> None:
        if bits == 16:
            weight = weight.bfloat16().float()
        weight = weight.contiguous()
        rows, inputs = weight.shape
        columns = rows // 2 if is_gated else rows
        self._bias = None if bias is None else bias.contiguous()
        bias_at = None if self._bias is None else self._bias.data_ptr()
        self.struct = Weight(columns, inputs, None, bias_at, bits, is_gated)
        self._panels = kernels.memory(kernels.packed_bytes(ctypes.byref(self.struct)))
        self.struct.panels = self._panels.data_ptr()
        kernels.pack(ctypes.byref(self.struct), weight.data_ptr(), self._panels.data_ptr())


class KernelLinear(Linear):
    """x @ weight.T + bias; a row's result does not depend on the rows beside it."""

    def __init__(
        self, kernels: Kernels, weight: torch.Tensor, bias: torch.Tensor | None, *, bits: int
    ) -> None:
        self._kernels = kernels
        self._weight = PackedWeight(kernels, weight, bias, bits=bits)
        self._at = ctypes.addressof(self._weight.struct)
        self._inputs, self._columns = weight.shape[1], weight.shape[0]

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        assert rows.dtype == torch.float32
        assert rows.shape[-1] == self._inputs
        rows = rows.contiguous()
        product = torch.empty(*rows.shape[:-1], self._columns)
        count = rows.numel() // self._inputs
        self._kernels.product(self._at, count, rows.data_ptr(), product.data_ptr())
        return product
