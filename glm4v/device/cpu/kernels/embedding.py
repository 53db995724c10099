"""Embedding tables in 8, 16 or 32 bits, read from memory or from files."""

import ctypes

import torch

from glm4v.checkpoint.file_matrix import FileMatrix
from glm4v.checkpoint.quantized import Matrix, QuantizedWeight
from glm4v.device.cpu.kernels.library import Int8Table, Kernels
from glm4v.device.cpu.kernels.matrix_source import matrix_source
from glm4v.device.cpu.kernels.memory import divided_memory, kernel_memory
from glm4v.device.embedding import Embedding, PlainEmbedding


def read_embedding(kernels: Kernels, table: Matrix, *, bits: int) -> Embedding:
    """The table in bfloat16 with `bits` 16, else in float32; in 8 bits where `table` is.

    Raises as `FileMatrix.reading`.
    """
    if isinstance(table, QuantizedWeight) and table.offsets is not None:
        table = table.dequantize()
    if isinstance(table, QuantizedWeight):
        return Int8Embedding(kernels, table)
    if isinstance(table, FileMatrix) and table.group:
        return Int8Embedding(kernels, _quantize_table(kernels, table))
    return PlainEmbedding(_read_table(kernels, table, bits=bits))


def _read_table(kernels: Kernels, table: Matrix, *, bits: int) -> torch.Tensor:
    rows, columns = table.shape
    memory = kernel_memory(rows * columns * bits // 8)
    with matrix_source(table) as source:
        kernels.read_table(ctypes.byref(source), rows, bits, memory.data_ptr())
    dtype = torch.bfloat16 if bits == 16 else torch.float32
    return memory.view(dtype).view(rows, columns)


def _quantize_table(kernels: Kernels, table: FileMatrix) -> QuantizedWeight:
    rows, columns = table.shape
    groups = -(-columns // table.group)
    integers, floats = divided_memory(rows * columns, rows * groups * 4)
    values = integers.view(torch.int8).view(rows, columns)
    scales = floats.view(torch.float32).view(rows, groups)
    with matrix_source(table) as source:
        kernels.quantize_table(ctypes.byref(source), rows, values.data_ptr(), scales.data_ptr())
    return QuantizedWeight(values, scales, table.group)


class Int8Embedding(Embedding):
    """A table of integers, whose rows become float32 when they are looked up."""

    def __init__(self, kernels: Kernels, table: QuantizedWeight) -> None:
        self._kernels = kernels
        self._columns = table.shape[1]
        self._values, self._scales = table.values.contiguous(), table.scales.contiguous()
        self._struct = Int8Table(
            self._values.data_ptr(), self._scales.data_ptr(), self._columns, table.group
        )

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """[tokens] -> [tokens, width]. Raises IndexError for ids that the table does not have."""
        ids = ids.to(torch.int64).contiguous()
        if len(ids) and not (int(ids.min()) >= 0 and int(ids.max()) < len(self._values)):
            raise IndexError(f"ids from {ids.min()} to {ids.max()} of {len(self._values)}")
        rows = torch.empty(len(ids), self._columns)
        self._kernels.look_up(ctypes.byref(self._struct), len(ids), ids.data_ptr(), rows.data_ptr())
        return rows
