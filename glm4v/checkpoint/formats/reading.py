"""Reads stored matrices, or parts of them, as 8-bit integers: exactly what the file says."""

from collections.abc import Callable, Iterator

import torch

from glm4v.checkpoint.formats.stored_matrix import Layout, StoredMatrix
from glm4v.checkpoint.quantized import QuantizedWeight

# A tensor by its name, or a part of it.
Part = Callable[[str, tuple[slice, ...]], torch.Tensor]
Range = tuple[int, int]

_PIECE_BYTES = 2**23  # of the file that are unpacked at a time


def read_stored(
    matrix: StoredMatrix, part: Part, rows: list[Range], columns: Range
) -> QuantizedWeight:
    """Ranges of rows, one after the other, and a range of columns of `matrix`.

    Raises ValueError for a file whose groups are in another order, whose scales are not finite, or
    whose zero points are not those of its format.
    """
    start, end = columns
    groups = (start // matrix.group, -(-end // matrix.group))
    _check_order(matrix, part)
    reader = _READERS[matrix.layout](matrix, part)
    scales = torch.cat([reader.floats(matrix.scales, each, groups) for each in rows])
    if not scales.isfinite().all():
        raise ValueError("NaN or infinite scales")
    offsets = torch.cat([reader.offsets(each, groups) for each in rows])
    values = torch.empty(len(scales), end - start, dtype=torch.int8)
    at = 0
    for first, last in rows:
        here = values[at : at + last - first]
        for row, column, piece in reader.integers((first, last), columns):
            here[row : row + piece.shape[0], column : column + piece.shape[1]] = piece
        at += last - first
    weight = QuantizedWeight(values, scales, matrix.group, start % matrix.group, offsets)
    if matrix.offset_added and offsets.any():
        raise ValueError("zero points that are not those of a symmetric file")
    return weight.centred() if matrix.bits < 8 else weight.without_zero_offsets()


def _check_order(matrix: StoredMatrix, part: Part) -> None:
    if matrix.column_groups is None:
        return
    found = part(matrix.column_groups, (slice(None),))
    if not torch.equal(found.long(), torch.arange(matrix.columns) // matrix.group):
        raise ValueError(
            "columns in groups of another order (desc_act); quantize with desc_act=False"
        )


class _Plain:
    """int8 [rows, columns]."""

    def __init__(self, matrix: StoredMatrix, part: Part) -> None:
        self._matrix = matrix
        self._part = part

    def floats(self, name: str, rows: Range, groups: Range) -> torch.Tensor:
        """float32 [rows, groups] of a tensor [rows, groups], or [rows] for one group."""
        found = self._part(name, (slice(*rows),))
        return found.float().view(rows[1] - rows[0], -1)[:, slice(*groups)]

    def offsets(self, rows: Range, groups: Range) -> torch.Tensor:
        """float32 [rows, groups]."""
        if self._matrix.offsets is None:
            return torch.zeros(rows[1] - rows[0], groups[1] - groups[0])
        return self.floats(self._matrix.offsets, rows, groups)

    def integers(self, rows: Range, columns: Range) -> Iterator[tuple[int, int, torch.Tensor]]:
        """int8 pieces, each with its first row and column within the ranges."""
        at_once = max(1, _PIECE_BYTES // (columns[1] - columns[0]))
        for row in range(*rows, at_once):
            where = (slice(row, min(row + at_once, rows[1])), slice(*columns))
            yield row - rows[0], 0, self._part(self._matrix.values, where)


class _Packed(_Plain):
    """Words along the columns; offsets along the rows."""

    def offsets(self, rows: Range, groups: Range) -> torch.Tensor:
        if self._matrix.offsets is None:
            return torch.zeros(rows[1] - rows[0], groups[1] - groups[0])
        bits = self._matrix.bits
        words, skipped = _words(rows, bits)
        packed = self._part(self._matrix.offsets, (words, slice(*groups)))
        unpacked = _unpack(packed.t(), bits).t()
        return unpacked[skipped : skipped + rows[1] - rows[0]].float()

    def integers(self, rows: Range, columns: Range) -> Iterator[tuple[int, int, torch.Tensor]]:
        bits = self._matrix.bits
        words, skipped = _words(columns, bits)
        at_once = max(1, _PIECE_BYTES // (4 * (words.stop - words.start)))
        for row in range(*rows, at_once):
            packed = self._part(
                self._matrix.values, (slice(row, min(row + at_once, rows[1])), words)
            )
            unpacked = _unpack(packed, bits)
            yield row - rows[0], 0, unpacked[:, skipped : skipped + columns[1] - columns[0]]


class _Gptq(_Plain):
    """Words along the columns of a transposed matrix."""

    def floats(self, name: str, rows: Range, groups: Range) -> torch.Tensor:
        return self._part(name, (slice(*groups), slice(*rows))).t().float()

    def offsets(self, rows: Range, groups: Range) -> torch.Tensor:
        assert self._matrix.offsets is not None
        bits = self._matrix.bits
        words, skipped = _words(rows, bits)
        packed = self._part(self._matrix.offsets, (slice(*groups), words))
        unpacked = _unpack(packed, bits)[:, skipped : skipped + rows[1] - rows[0]]
        return unpacked.t().float() + self._matrix.offset_added

    def integers(self, rows: Range, columns: Range) -> Iterator[tuple[int, int, torch.Tensor]]:
        bits = self._matrix.bits
        words, skipped = _words(columns, bits)
        at_once = max(1, _PIECE_BYTES // (4 * (rows[1] - rows[0])))
        per_word = 32 // bits
        for word in range(words.start, words.stop, at_once):
            last = min(word + at_once, words.stop)
            packed = self._part(self._matrix.values, (slice(word, last), slice(*rows)))
            first = (word - words.start) * per_word - skipped  # its column within the range
            unpacked = _unpack(packed.t(), bits)[:, max(0, -first) :]
            column = max(0, first)
            yield 0, column, unpacked[:, : columns[1] - columns[0] - column]


_READERS: dict[Layout, type[_Plain]] = {
    Layout.PLAIN: _Plain,
    Layout.PACKED: _Packed,
    Layout.GPTQ: _Gptq,
}


def _words(values: Range, bits: int) -> tuple[slice, int]:
    """The words that hold a range of integers, and how many others come first in them."""
    first = values[0] * bits // 32
    return slice(first, -(-values[1] * bits // 32)), values[0] - first * 32 // bits


def _unpack(words: torch.Tensor, bits: int) -> torch.Tensor:
    """int32 [rows, words] of unsigned integers -> int8 [rows, integers], half the range lower."""
    words = words.contiguous()
    # A dimension of one word may have any stride, which `view` would refuse.
    octets = words.as_strided(words.shape, (words.shape[1], 1)).view(torch.uint8)
    if bits == 8:
        return octets.bitwise_xor(0x80).view(torch.int8)
    halves = torch.stack((octets & 0xF, octets >> 4), -1).flatten(-2)
    return halves.view(torch.int8) - 8
