"""Matrices in 8 bits: integers, and a float32 scale for each row and group of columns.

The rule of `quantize`, in float32, for each group of 64 columns of a row (the last may be shorter):
the scale is the greatest magnitude / 127, and an integer is value / scale, rounded to the nearest,
half to even. Where the scale would be below the smallest normal float32 (all zeros, in practice),
scale and integers are 0. -128 is never used: the integers are symmetric.

13696 inputs, the MLP's width of GLM-4V-9B, are 107 x 128: a rank of a group of two or four begins
inside of a group of columns. Its part keeps the scale of the whole group, so that every
tensor-parallel size computes with the same numbers.
"""

from dataclasses import dataclass

import torch

from glm4v.checkpoint.file_matrix import FileMatrix

GROUP = 64  # columns
_MOST = 127
_LEAST_SCALE = torch.finfo(torch.float32).tiny
_CHUNK = 2**20  # values that are quantized at a time: they stay in a cache


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A matrix of 8-bit integers, or some rows and columns of one."""

    values: torch.Tensor  # int8 [rows, columns]
    scales: torch.Tensor  # float32 [rows, groups]
    group: int  # columns that share a scale; at least all columns: one scale for each row
    lead: int = 0  # columns of the first group that stand in front of these, in the whole matrix

    def __post_init__(self) -> None:
        rows, columns = self.values.shape
        groups = -(-(self.lead + columns) // self.group)
        if self.values.dtype != torch.int8 or self.scales.dtype != torch.float32:
            raise ValueError(f"need int8 and float32: {self.values.dtype}, {self.scales.dtype}")
        if self.scales.shape != (rows, groups) or not 0 <= self.lead < self.group:
            raise ValueError(
                f"scales {list(self.scales.shape)} of {rows} rows and {columns} columns in groups "
                f"of {self.group}, the first after {self.lead}"
            )

    @property
    def shape(self) -> torch.Size:
        """[rows, columns]."""
        return self.values.shape

    def columns(self, start: int, end: int) -> "QuantizedWeight":
        """The columns [start, end), which keep the scales of their groups."""
        first, last = (self.lead + start) // self.group, -(-(self.lead + end) // self.group)
        return QuantizedWeight(
            self.values[:, start:end],
            self.scales[:, first:last],
            self.group,
            (self.lead + start) % self.group,
        )

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The matrix as floating-point numbers: integer x scale in float32, then `dtype`."""
        rows, columns = self.shape
        groups = (torch.arange(columns) + self.lead) // self.group
        weight = torch.empty(rows, columns, dtype=dtype)
        at_once = _rows(columns)
        for at in range(0, rows, at_once):
            part = slice(at, at + at_once)
            weight[part] = self.values[part] * self.scales[part][:, groups]
        return weight


# A matrix that a layer multiplies with. Only a device that packs files is given stored ones.
Matrix = torch.Tensor | QuantizedWeight | FileMatrix


def as_tensor(matrix: Matrix, dtype: torch.dtype) -> torch.Tensor:
    """The matrix for a device that has no product with 8-bit weights."""
    assert not isinstance(matrix, FileMatrix), "this device does not pack files"
    return matrix.dequantize(dtype) if isinstance(matrix, QuantizedWeight) else matrix


class Quantizer:
    """Quantizes a matrix whose rows come in pieces; each value is read once.

    Raises ValueError for NaN and infinite values, which no scale can hold.
    """

    def __init__(self, rows: int, columns: int, group: int = GROUP) -> None:
        self._values = torch.empty(rows, columns, dtype=torch.int8)
        self._scales = torch.empty(rows, -(-columns // group))
        self._group = group
        self._done = 0

    def add(self, piece: torch.Tensor) -> None:
        """The next rows [count, columns], floating-point numbers of any dtype."""
        for rows in torch.split(piece, _rows(piece.shape[1])):
            values, scales = _quantize(rows.float(), self._group)
            at = slice(self._done, self._done + len(rows))
            self._values[at], self._scales[at] = values, scales
            self._done += len(rows)

    def weight(self) -> QuantizedWeight:
        """The matrix, when all rows were added."""
        assert self._done == len(self._values)
        return QuantizedWeight(self._values, self._scales, self._group)


def quantize(weight: torch.Tensor, group: int = GROUP) -> QuantizedWeight:
    """The matrix `weight` [rows, columns] in 8 bits; raises ValueError like `Quantizer`."""
    rows, columns = weight.shape
    quantizer = Quantizer(rows, columns, group)
    quantizer.add(weight)
    return quantizer.weight()


def _rows(columns: int) -> int:
    return max(1, _CHUNK // max(1, columns))


def _quantize(values: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 [rows, columns] -> integers as float32 [rows, columns], scales [rows, groups]."""
    rows, columns = values.shape
    padding = -columns % group
    if padding:
        values = torch.nn.functional.pad(values, (0, padding))
    groups = values.view(rows, -1, group)
    greatest = groups.abs().amax(-1)
    if not greatest.isfinite().all():
        raise ValueError("NaN or infinite values")
    scales = greatest / _MOST
    scales[scales < _LEAST_SCALE] = 0
    divisors = torch.where(scales == 0, torch.inf, scales)
    integers = (groups / divisors[..., None]).round_()
    return integers.view(rows, -1)[:, :columns], scales
