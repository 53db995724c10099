"""Where a tensor lies in a file, as the headers of safetensors files say."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm4v.checkpoint.files import refuse_lfs_pointer
from glm4v.errors import CheckpointError

FLOAT_BYTES = {"BF16": 2, "F16": 2, "F32": 4}
DTYPE_BYTES = {
    **FLOAT_BYTES,
    "I8": 1,
    "U8": 1,
    "I32": 4,
    "I64": 8,
}  # integers: of quantized matrices
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format
_POINTER_BYTES = 64  # enough to know a Git LFS pointer


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Where one tensor lies."""

    file: Path
    dtype: str  # as safetensors spells it
    shape: tuple[int, ...]
    start: int  # byte offset in the file
    end: int


def read_header(file: Path) -> dict[str, TensorPlace]:
    """Parse a safetensors header: 8 bytes of length (little-endian), JSON, then the data.

    Source: the format description of the safetensors project.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(_POINTER_BYTES)
            refuse_lfs_pointer(file, start)
            length = int.from_bytes(start[:8], "little")
            if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
                raise CheckpointError(f"{file}: truncated: {size} bytes do not hold its header")
            stream.seek(8)
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        places = {name: _place(file, 8 + length, entry) for name, entry in header.items()}
    except FileNotFoundError:
        raise CheckpointError(f"{file}: no such file, though the index lists it") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file}: not a safetensors file: {error!r}") from None
    for name, place in places.items():
        _check_place(name, place, size)
    return places


def _place(file: Path, data_start: int, entry: dict[str, Any]) -> TensorPlace:
    start, end = entry["data_offsets"]
    shape = tuple(int(n) for n in entry["shape"])
    return TensorPlace(
        file, str(entry["dtype"]), shape, data_start + int(start), data_start + int(end)
    )


def _check_place(name: str, place: TensorPlace, file_size: int) -> None:
    if place.dtype not in DTYPE_BYTES:
        raise CheckpointError(
            f"{place.file}: {name} has dtype {place.dtype}; {', '.join(FLOAT_BYTES)} can be read"
        )
    if place.end > file_size:
        raise CheckpointError(
            f"{place.file}: truncated: {name} ends at byte {place.end} of {file_size}"
        )
    if place.end - place.start != math.prod(place.shape) * DTYPE_BYTES[place.dtype]:
        raise CheckpointError(f"{place.file}: {name}: its shape does not fit its bytes")
