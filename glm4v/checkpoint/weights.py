"""Reads tensors of a checked checkpoint, whole or in slices, and nothing beside them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.loading import Loading
from glm4v.checkpoint.quantized import GROUP, Matrix, Quantizer
from glm4v.errors import CheckpointError, Overloaded
from glm4v.host.out_of_memory import is_out_of_memory

_PIECE_BYTES = 2**23  # of a matrix that is read to be quantized


class Weights:
    """Tensors of one checkpoint in one dtype on one device; `loading` hears of what is read.

    With `quantizes`, matrices are quantized to 8 bits while they are read.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        dtype: torch.dtype,
        device: torch.device,
        loading: Loading | None = None,
        *,
        quantizes: bool = False,
    ) -> None:
        self._checkpoint = checkpoint
        self._dtype = dtype
        self._device = device
        self._loading = loading
        self._quantizes = quantizes
        self._files: dict[Path, Any] = {}

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
        place = self._checkpoint.tensors[name]
        if rows is None and columns is None:
            tensor = self._stored(name, lambda file: file.get_tensor(name))
        else:
            ranges = rows or [(0, place.shape[0])]
            pieces = [self._part(name, start, end, columns) for start, end in ranges]
            tensor = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        # Converted on the host: a device may lack the dtype of the file.
        return tensor.to(self._dtype).to(self._device).contiguous()

    def read_matrix(
        self,
        name: str,
        *,
        rows: Sequence[tuple[int, int]] | None = None,
        columns: tuple[int, int] | None = None,
    ) -> Matrix:
        """A matrix that layers multiply with, as `read` does, or in 8 bits if this quantizes.

        A file's rows are quantized piece by piece: there is no second copy of the matrix. Raises
        CheckpointError also for NaN and infinite values, which 8 bits cannot hold.
        """
        if not self._quantizes:
            return self.read(name, rows=rows, columns=columns)
        place = self._checkpoint.tensors[name]
        ranges = rows or [(0, place.shape[0])]
        start, end = columns or (0, place.shape[1])
        # Whole groups, so that a rank's part has the scales of the whole matrix.
        first, last = start // GROUP * GROUP, min(-(-end // GROUP) * GROUP, place.shape[1])
        quantizer = Quantizer(sum(b - a for a, b in ranges), last - first)
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

    def _part(
        self, name: str, start: int, end: int, columns: tuple[int, int] | None
    ) -> torch.Tensor:
        """Rows [start, end) of a tensor, in the dtype of its file."""
        where = slice(start, end) if columns is None else (slice(start, end), slice(*columns))
        return self._stored(name, lambda file: file.get_slice(name)[where])

    def _stored(self, name: str, read: Callable[[Any], torch.Tensor]) -> torch.Tensor:
        """What `read` takes from the file of the tensor `name`; raises as `read` of this class."""
        place = self._checkpoint.tensors[name]
        try:
            tensor = read(self._file(place.file))
        except (OSError, RuntimeError, SafetensorError) as error:
            if is_out_of_memory(error):
                raise Overloaded(f"{place.file}: not enough memory to read {name}") from error
            raise CheckpointError(f"{place.file}: {name} cannot be read: {error}") from error
        if self._loading is not None:
            self._loading.add(tensor.nbytes)
        return tensor

    def _file(self, file: Path) -> Any:
        if file not in self._files:
            self._files[file] = safe_open(str(file), framework="pt", device="cpu")
        return self._files[file]
