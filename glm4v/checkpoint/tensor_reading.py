"""Reads tensors, or parts of them, from their files into memory of our own.

Not by mapping a file: where one that is mapped gets shorter, the kernel ends the process (SIGBUS).
"""

import math
import os

import torch

from glm4v.checkpoint.file_matrix import OpenFile
from glm4v.checkpoint.tensor_place import DTYPE_BYTES, TensorPlace

_DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "I8": torch.int8,
    "U8": torch.uint8,
    "I32": torch.int32,
    "I64": torch.int64,
}


def read_tensor(file: OpenFile, place: TensorPlace, where: tuple[slice, ...] = ()) -> torch.Tensor:
    """The tensor at `place` in the dtype of its file; `where` are ranges of its first dimensions.

    At most two, the second of a matrix only. Raises OSError, and EOFError where the file ends
    before the tensor does.
    """
    parts = [range(size)[part] for size, part in zip(place.shape, where, strict=False)]
    shape = [len(part) for part in parts] + list(place.shape[len(parts) :])
    held = torch.empty(math.prod(shape) * DTYPE_BYTES[place.dtype], dtype=torch.uint8)
    if held.numel():
        _fill(held.numpy().data, file, place, parts)
    return held.view(_DTYPES[place.dtype]).view(shape)


def _fill(to: memoryview, file: OpenFile, place: TensorPlace, parts: list[range]) -> None:
    """Read rows, or the part of each that is a range of columns."""
    first = parts[0].start if parts else 0
    row_bytes = math.prod(place.shape[1:]) * DTYPE_BYTES[place.dtype]
    start = place.start + first * row_bytes
    if len(parts) < 2 or len(parts[1]) == place.shape[1]:
        _read(to, file, start)
        return
    start += parts[1].start * DTYPE_BYTES[place.dtype]
    size = len(parts[1]) * DTYPE_BYTES[place.dtype]
    for at in range(len(parts[0])):
        _read(to[at * size : (at + 1) * size], file, start + at * row_bytes)


def _read(to: memoryview, file: OpenFile, offset: int) -> None:
    done = 0
    while done < len(to):
        count = os.preadv(file.descriptor, [to[done:]], offset + done)
        if count == 0:
            raise EOFError("the file is truncated")
        done += count
