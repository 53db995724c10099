"""Matrix products with packed weights."""

import ctypes
import math

import torch

from glm4v.checkpoint.file_matrix import FileMatrix
from glm4v.checkpoint.quantized import Matrix, QuantizedWeight
from glm4v.device.cpu.kernels.library import Kernels, Weight, check_floats
from glm4v.device.cpu.kernels.matrix_source import matrix_source
from glm4v.device.cpu.kernels.memory import divided_memory, kernel_memory
from glm4v.device.linear import Epilogue, Linear

_CODES: dict[Epilogue, int] = {"none": 0, "gelu": 1, "silu_gate": 2}  # Epilogue in source/gemm.h
_GROUPS = 256  # a kernel's groups divide it
_LEAST_GROUP = 16


class PackedWeight:
    """A weight in the kernels' layout, and the memory that holds it.

    weight [out, in], float32, in 8 bits or still in its files, bias [out], float32. With `bits` 16,
    numbers are rounded to bfloat16, and so are 8 bits with offsets, which no kernel has. `epilogue`
    as in `Device.linear`. Raises ValueError for other shapes and dtypes, and as
    `FileMatrix.reading`.
    """

    def __init__(
        self,
        kernels: Kernels,
        weight: Matrix,
        bias: torch.Tensor | None = None,
        *,
        bits: int,
        epilogue: Epilogue = "none",
    ) -> None:
        rows, in_features = weight.shape
        if epilogue == "silu_gate" and rows % 2:
            raise ValueError(f"a gated weight needs an even number of rows, got {rows}")
        if isinstance(weight, QuantizedWeight) and weight.offsets is not None:
            weight = weight.dequantize()
        if isinstance(weight, QuantizedWeight) or (isinstance(weight, FileMatrix) and weight.group):
            bits = 8
        self._kernels, self._rows = kernels, rows
        self.out_features = rows // 2 if epilogue == "silu_gate" else rows
        self.struct = Weight(
            out_features=self.out_features,
            in_features=in_features,
            bits=bits,
            epilogue=_CODES[epilogue],
        )
        self._columns = kernels.panel_count(ctypes.byref(self.struct)) * kernels.nr
        scales = None
        if isinstance(weight, QuantizedWeight):
            scales, self.struct.group, self.struct.lead = _kernel_groups(weight)
        elif isinstance(weight, FileMatrix) and weight.group:
            self.struct.group, self.struct.lead = _groups_of_file(weight)
        self._reserve(self._columns * in_features * bits // 8)
        if scales is not None:
            self._pack_floats("scales", scales, self._scales)
        with matrix_source(weight) as source:
            kernels.pack(
                ctypes.byref(self.struct),
                ctypes.byref(source),
                self.struct.panels,
                self.struct.scales,
            )
        if bias is not None:
            self._bias = kernel_memory(self._columns * 4)
            self.struct.bias = self._bias.data_ptr()
            self._pack_floats("bias", bias[:, None], self._bias)

    def _reserve(self, panel_bytes: int) -> None:
        """Memory for the panels, and for the scales if there are groups."""
        groups = 0
        if self.struct.group:
            groups = int(self._kernels.group_count(ctypes.byref(self.struct)))
        self._panels, self._scales = divided_memory(panel_bytes, self._columns * groups * 4)
        self.struct.panels = self._panels.data_ptr()
        if groups:
            self.struct.scales = self._scales.data_ptr()

    def _pack_floats(self, name: str, values: torch.Tensor, packed: torch.Tensor) -> None:
        """Write values of each row as the kernels read them, after a check of their shape."""
        values = values.contiguous()
        count = len(packed) // (self._columns * 4)
        check_floats(name, values, (self._rows, count))
        at = ctypes.byref(self.struct)
        self._kernels.pack_floats(at, values.data_ptr(), count, packed.data_ptr())


def _kernel_groups(weight: QuantizedWeight) -> tuple[torch.Tensor, int, int]:
    """Scales [rows, groups] in groups that the kernels take: their size, and the lead of the first.

    A scale stands for each of the smaller groups that a larger one is divided into.
    """
    if weight.scales.shape[1] == 1:  # all columns are of one group: no matter where it begins
        groups = -(-weight.shape[1] // _GROUPS)
        return weight.scales.expand(-1, groups), _GROUPS, 0
    group = _kernel_group(weight.group)
    first = weight.lead // group
    columns = torch.arange(first, -(-(weight.lead + weight.shape[1]) // group)) * group
    return weight.scales[:, columns // weight.group], group, weight.lead % group


def _groups_of_file(weight: FileMatrix) -> tuple[int, int]:
    """The size of the groups of a matrix that the kernels quantize, and the lead of the first."""
    if weight.read_columns <= weight.group:
        return _GROUPS, 0
    group = _kernel_group(weight.group)
    return group, weight.skipped % group


def _kernel_group(group: int) -> int:
    """The largest group that the kernels take and that divides `group`; raises ValueError."""
    found = math.gcd(group, _GROUPS)
    if found < _LEAST_GROUP:
        raise ValueError(f"groups of {group} columns; multiples of {_LEAST_GROUP} are known")
    return found


def check_matrix(name: str, matrix: Matrix, shape: tuple[int, int]) -> None:
    """Raise ValueError for a matrix of another shape, or a tensor that kernels do not read."""
    if isinstance(matrix, torch.Tensor):
        check_floats(name, matrix, shape)
    elif tuple(matrix.shape) != shape:
        raise ValueError(f"{name}: expected {list(shape)}, got {list(matrix.shape)}")


class KernelLinear(Linear):
    """A product whose rows are independent: a result does not depend on the rest of the batch."""

    def __init__(
        self,
        kernels: Kernels,
        weight: Matrix,
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
