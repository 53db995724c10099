"""Reads tensors of a checked checkpoint, whole or in slices, and nothing beside them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.loading import Loading
from glm4v.errors import CheckpointError, Overloaded
from glm4v.host.out_of_memory import is_out_of_memory


class Weights:
    """Tensors of one checkpoint in one dtype on one device; `loading` hears of what is read."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        dtype: torch.dtype,
        device: torch.device,
        loading: Loading | None = None,
    ) -> None:
        self._checkpoint = checkpoint
        self._dtype = dtype
        self._device = device
        self._loading = loading
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
        try:
            if rows is None and columns is None:
                tensor: torch.Tensor = self._file(place.file).get_tensor(name)
            else:
                part = self._file(place.file).get_slice(name)
                ranges = rows or [(0, place.shape[0])]
                pieces = [
                    part[a:b] if columns is None else part[a:b, columns[0] : columns[1]]
                    for a, b in ranges
                ]
                tensor = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        except (OSError, RuntimeError, SafetensorError) as error:
            if is_out_of_memory(error):
                raise Overloaded(f"{place.file}: not enough memory to read {name}") from error
            raise CheckpointError(f"{place.file}: {name} cannot be read: {error}") from error
        if self._loading is not None:
            self._loading.add(tensor.nbytes)
        # Converted on the host: a device may lack the dtype of the file.
        return tensor.to(self._dtype).to(self._device).contiguous()

    def _file(self, file: Path) -> Any:
        if file not in self._files:
            self._files[file] = safe_open(str(file), framework="pt", device="cpu")
        return self._files[file]
