"""Writes a safetensors file tensor by tensor, in pieces: nothing is held in memory.

Source: the format description of the safetensors project: 8 bytes of length (little-endian), a
header in JSON, padded by spaces to a multiple of 8, then the data without gaps.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from glm4v.checkpoint.tensor_place import DTYPE_BYTES


@dataclass(frozen=True, slots=True)
class NewTensor:
    """What a header says of one tensor."""

    dtype: str  # as safetensors spells it
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


class SafetensorsFile:
    """A new file of `tensors`, whose bytes are written in their order.

    Raises OSError, as its methods do: FileExistsError for a file that exists.
    """

    def __init__(self, path: Path, tensors: Mapping[str, NewTensor]) -> None:
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        at = 0
        for name, tensor in tensors.items():
            end = at + tensor.nbytes
            header[name] = {
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "data_offsets": [at, end],
            }
            at = end
        content = json.dumps(header).encode()
        content += b" " * (-len(content) % 8)
        self._left = at
        self._file = path.open("xb")
        self._file.write(len(content).to_bytes(8, "little") + content)

    def __enter__(self) -> "SafetensorsFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, pieces: Iterable[memoryview]) -> None:
        """Append the bytes of a tensor."""
        for piece in pieces:
            self._left -= piece.nbytes
            self._file.write(piece)

    def finish(self) -> None:
        """Have the whole file on the disk."""
        assert self._left == 0, f"{self._left} bytes are missing"
        self._file.flush()
        os.fsync(self._file.fileno())
