"""Reads tensors of a checked checkpoint, whole or in slices, and nothing beside them."""

from collections.abc import Sequence
from pathlib import Path

import torch

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.file_matrix import FileMatrix, FileRows, OpenFile
from glm4v.checkpoint.formats.reading import Range, read_stored
from glm4v.checkpoint.loading import Loading
from glm4v.checkpoint.quantized import Matrix, Quantization, QuantizedWeight, Quantizer
from glm4v.checkpoint.tensor_place import DTYPE_BYTES
from glm4v.checkpoint.tensor_reading import read_tensor
from glm4v.errors import CheckpointError, Overloaded
from glm4v.host.out_of_memory import is_out_of_memory

_PIECE_BYTES = 2**23  # of a matrix that is read to be quantized


class Weights:
    """Tensors of one checkpoint in one dtype on one device; `loading` hears of what is read.

    With `quantization`, matrices are quantized to 8 bits while they are read. With `packs_files`
    they are left in their files, for a device that packs them from there (`Device.packs_files`).
    With `keeps_int8`, those that the checkpoint has quantized stay as they are; they are
    dequantized otherwise.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        dtype: torch.dtype,
        device: torch.device,
        loading: Loading | None = None,
        *,
        quantization: Quantization | None = None,
        packs_files: bool = False,
        keeps_int8: bool = False,
    ) -> None:
        self._checkpoint = checkpoint
        self._dtype = dtype
        self._device = device
        self._loading = loading
        self._quantization = quantization
        self._packs_files = packs_files
        self._keeps_int8 = keeps_int8
        self._opened: dict[Path, OpenFile] = {}

    def read(
        self,
        name: str,
        *,
        rows: Sequence[tuple[int, int]] | None = None,
        columns: tuple[int, int] | None = None,
    ) -> torch.Tensor:
        """The tensor `name`; `rows` are ranges [start, end) of dimension 0, one after the other.

        `columns` is a range of dimension 1. Raises CheckpointError when the file cannot be read,
        Overloaded when there is not enough memory.
        """
        if name in self._checkpoint.quantized:
            matrix = self._read_quantized(name, rows, columns)
            return matrix.dequantize(self._dtype).to(self._device)
        place = self._checkpoint.tensors[name]
        if rows is None and columns is None:
            tensor = self._stored(name)
        else:
            ranges = rows or [(0, place.shape[0])]
            pieces = [self._part(name, start, end, columns) for start, end in ranges]
            tensor = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        # Converted on the host: a device may lack the dtype of the file.
        return tensor.to(self._dtype).to(self._device).contiguous()

    def read_squares(self, name: str) -> torch.Tensor:
        """A convolution's weight [out, channels, size, size] as rows [out, size * size * channels].

        For squares that do not overlap. The values are moved on the host: a device holds them once.
        Raises as `read`.
        """
        rows = self._stored(name).permute(0, 2, 3, 1).flatten(1)
        return rows.to(self._dtype).to(self._device)

    def read_table(self, name: str, *, rows: Sequence[tuple[int, int]]) -> Matrix:
        """A matrix that is looked up, as `read` does, or in its file; not in 8 bits.

        For a device that looks up in 8 bits, `read_matrix` reads it.
        """
        if self._packs_files and name not in self._checkpoint.quantized:
            return self._in_files([name], rows, None, group=0)
        return self.read(name, rows=rows)

    def read_stacked(self, *names: str) -> Matrix:
        """Matrices that layers multiply with as one, one above the other; never in 8 bits."""
        if self._packs_files and self._are_alike(names):
            return self._in_files(names, None, None, group=0)
        return torch.cat([self.read(name) for name in names])

    def read_matrix(
        self,
        name: str,
        *,
        rows: Sequence[tuple[int, int]] | None = None,
        columns: tuple[int, int] | None = None,
    ) -> Matrix:
        """A matrix that layers multiply with, as `read` does, or quantized to 8 bits.

        A file's rows are quantized piece by piece: there is no second copy of the matrix. Raises
        CheckpointError also for NaN and infinite values, which 8 bits cannot hold.
        """
        if name in self._checkpoint.quantized:
            if self._keeps_int8:
                return self._read_quantized(name, rows, columns)
            return self.read(name, rows=rows, columns=columns)
        place = self._checkpoint.tensors[name]
        group = self._quantization.group_of(place.shape[1]) if self._quantization else 0
        if self._packs_files:
            return self._in_files([name], rows, columns, group=group)
        if not group:
            return self.read(name, rows=rows, columns=columns)
        ranges = rows or [(0, place.shape[0])]
        start, end = columns or (0, place.shape[1])
        first, last = _whole_groups((start, end), group, place.shape[1])
        quantizer = Quantizer(sum(b - a for a, b in ranges), last - first, group)
        at_once = max(1, _PIECE_BYTES // (2 * (last - first)))
        try:
            for row, stop in ranges:
                for at in range(row, stop, at_once):
                    quantizer.add(self._part(name, at, min(at + at_once, stop), (first, last)))
        except ValueError as error:
            raise CheckpointError(
                f"{place.file}: {name} has {error}, which 8 bits cannot hold; the checkpoint is "
                "damaged"
            ) from None
        return quantizer.weight().columns(start - first, end - first)

    def _in_files(
        self,
        names: Sequence[str],
        rows: Sequence[tuple[int, int]] | None,
        columns: tuple[int, int] | None,
        *,
        group: int,
    ) -> FileMatrix:
        """Tensors of equal width and dtype, one above the other; raises CheckpointError."""
        places = [self._checkpoint.tensors[name] for name in names]
        dtype, width = places[0].dtype, places[0].shape[1]
        start, end = columns or (0, width)
        first, last = _whole_groups((start, end), group or 1, width)
        bytes_per_value = DTYPE_BYTES[dtype]
        stride = width * bytes_per_value
        stored = tuple(
            FileRows(
                self._open(place.file, name),
                place.start + row * stride + first * bytes_per_value,
                stride,
                stop - row,
            )
            for name, place in zip(names, places, strict=True)
            for row, stop in rows or [(0, place.shape[0])]
        )
        return FileMatrix(
            name=" and ".join(names),
            dtype=dtype,
            rows=stored,
            read_columns=last - first,
            skipped=start - first,
            columns=end - start,
            group=group,
            loading=self._loading,
        )

    def _are_alike(self, names: Sequence[str]) -> bool:
        """Whether the files have all of them as numbers of one dtype."""
        if self._checkpoint.quantized.keys() & set(names):
            return False
        return len({self._checkpoint.tensors[name].dtype for name in names}) == 1

    def _open(self, file: Path, name: str) -> OpenFile:
        if file not in self._opened:
            try:
                self._opened[file] = OpenFile(file)
            except OSError as error:
                raise CheckpointError(f"{file}: {name} cannot be read: {error}") from error
        return self._opened[file]

    def _read_quantized(
        self, name: str, rows: Sequence[Range] | None, columns: Range | None
    ) -> QuantizedWeight:
        """A matrix that the checkpoint has quantized, or a part of it."""
        stored = self._checkpoint.quantized[name]
        try:
            ranges = list(rows or [(0, stored.rows)])
            return read_stored(stored, self._stored, ranges, columns or (0, stored.columns))
        except ValueError as error:
            file = self._checkpoint.tensors[stored.values].file
            raise CheckpointError(
                f"{file}: {name}, quantized by {self._checkpoint.quantized_by}, has {error}"
            ) from None

    def _part(
        self, name: str, start: int, end: int, columns: tuple[int, int] | None
    ) -> torch.Tensor:
        """Rows [start, end) of a tensor, in the dtype of its file."""
        where = (slice(start, end),) if columns is None else (slice(start, end), slice(*columns))
        return self._stored(name, where)

    def _stored(self, name: str, where: tuple[slice, ...] = ()) -> torch.Tensor:
        """The tensor `name`, or a part of it, as in its file; raises as `read` of this class."""
        place = self._checkpoint.tensors[name]
        try:
            tensor = read_tensor(self._open(place.file, name), place, where)
        except (OSError, EOFError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise Overloaded(f"{place.file}: not enough memory to read {name}") from error
            raise CheckpointError(f"{place.file}: {name} cannot be read: {error}") from error
        if self._loading is not None:
            self._loading.add(tensor.nbytes)
        return tensor


def _whole_groups(columns: tuple[int, int], group: int, width: int) -> tuple[int, int]:
    """The columns of all groups that `columns` are in: a rank's part has the matrix's scales."""
    start, end = columns
    return start // group * group, min(-(-end // group) * group, width)
