"""Matrices in 8 bits: integers, and a float32 scale for each row and group of columns.

The rule of `quantize`, in float32, for each group of columns of a row (the last may be shorter;
with one scale for each channel the whole row is a group): the scale is the greatest magnitude /
127, and an integer is value / scale, rounded to the nearest, half to even. Where the scale would be
below the smallest normal float32 (all zeros, in practice), scale and integers are 0. -128 is never
used: the integers are symmetric.

13696 inputs, the MLP's width of GLM-4V-9B, are 107 x 128: a rank of a group of two or four begins
inside of a group of columns. Its part keeps the scale of the whole group, so that every
tensor-parallel size computes with the same numbers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from glm4v.checkpoint.file_matrix import FileMatrix

_MOST = 127
_LEAST_SCALE = torch.finfo(torch.float32).tiny
_CHUNK = 2**20  # values that are quantized at a time: they stay in a cache


@dataclass(frozen=True, slots=True)
class Quantization:
    """How matrices are quantized: which columns share a scale."""

    group: int | None  # so many next to each other; None: all of a row

    def group_of(self, columns: int) -> int:
        """Columns that share a scale in a matrix that has so many."""
        return self.group or columns


GROUPS = Quantization(64)  # weight dtype int8
CHANNELS = Quantization(None)  # int8-channel: one scale for each output channel, that is each row


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A matrix of 8-bit integers, or some rows and columns of one.

    A value is (integer - offset) x scale. What `quantize` makes has no offsets; checkpoints may.
    """

    values: torch.Tensor  # int8 [rows, columns]
    scales: torch.Tensor  # float32 [rows, groups]
    group: int  # columns that share a scale; at least all columns: one scale for each row
    lead: int = 0  # columns of the first group that stand in front of these, in the whole matrix
    offsets: torch.Tensor | None = None  # float32 [rows, groups]; None: 0

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
        if self.offsets is not None and (self.offsets.shape, self.offsets.dtype) != (
            self.scales.shape,
            torch.float32,
        ):
            raise ValueError(f"need float32 offsets like the scales: {list(self.offsets.shape)}")

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
            None if self.offsets is None else self.offsets[:, first:last],
        )

    def map_rows(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "QuantizedWeight":
        """The matrix whose rows `change` chooses or puts in another order."""
        return replace(
            self,
            values=change(self.values),
            scales=change(self.scales),
            offsets=None if self.offsets is None else change(self.offsets),
        )

    def without_zero_offsets(self) -> "QuantizedWeight":
        """The same without offsets, if all of them are 0."""
        if self.offsets is None or self.offsets.any():
            return self
        return replace(self, offsets=None)

    def centred(self) -> "QuantizedWeight":
        """The same values without offsets, where an integer less its offset has 8 bits."""
        if self.offsets is None:
            return self
        for part in _parts(*self.shape):
            offsets = self.offsets[part][:, self._groups()].to(torch.int8)
            self.values[part] -= offsets
        return replace(self, offsets=None)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The matrix as floating-point numbers, computed in float32, then `dtype`."""
        groups = self._groups()
        weight = torch.empty(self.shape, dtype=dtype)
        for part in _parts(*self.shape):
            values = self.values[part].float()
            if self.offsets is not None:
                values -= self.offsets[part][:, groups]
            weight[part] = values * self.scales[part][:, groups]
        return weight

    def _groups(self) -> torch.Tensor:
        """The group of each column."""
        return (torch.arange(self.shape[1]) + self.lead) // self.group


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

    def __init__(self, rows: int, columns: int, group: int) -> None:
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


def quantize(weight: torch.Tensor, quantization: Quantization = GROUPS) -> QuantizedWeight:
    """The matrix `weight` [rows, columns] in 8 bits; raises ValueError like `Quantizer`."""
    rows, columns = weight.shape
    quantizer = Quantizer(rows, columns, quantization.group_of(columns))
    quantizer.add(weight)
    return quantizer.weight()


def _parts(rows: int, columns: int) -> Iterator[slice]:
    """Rows that are computed with at a time."""
    at_once = _rows(columns)
    return (slice(at, at + at_once) for at in range(0, rows, at_once))


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
