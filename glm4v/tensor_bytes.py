"""Tensors as bytes: a header with dtype, shape and checksum, then the raw values."""

import hashlib
import math
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from glm4v.internal.v1 import journal_pb2

_MAGIC = b"GT01"
_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class CorruptTensor(Exception):
    """The bytes are not what was stored; the message says which check failed."""


@dataclass(frozen=True, slots=True)
class TensorBytes:
    """A tensor that can travel: row-major `data` of `dtype` ("float32", "bfloat16", "float16")."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | bytearray | memoryview


def pack(tensor: TensorBytes) -> bytes:
    """Header and values as one string of bytes."""
    header = journal_pb2.TensorHeader(
        dtype=tensor.dtype, shape=tensor.shape, checksum=_checksum(tensor.data)
    ).SerializeToString()
    return b"".join((_MAGIC, len(header).to_bytes(4, "little"), header, tensor.data))


def unpack(packed: bytes) -> TensorBytes:
    """What `pack` was given; raises CorruptTensor when a single bit is different."""
    view = memoryview(packed)
    end = 8 + int.from_bytes(view[4:8], "little")
    if view[:4] != _MAGIC or end > len(view):
        raise CorruptTensor("no tensor header")
    header = journal_pb2.TensorHeader()
    try:
        header.ParseFromString(view[8:end].tobytes())
    except DecodeError:
        raise CorruptTensor("the header does not parse") from None
    data, shape = view[end:], tuple(header.shape)
    if header.dtype not in _ITEM_BYTES:
        raise CorruptTensor(f"unknown dtype {header.dtype!r}")
    if len(data) != math.prod(shape) * _ITEM_BYTES[header.dtype]:
        raise CorruptTensor(f"{len(data)} bytes do not hold shape {shape} of {header.dtype}")
    if _checksum(data) != header.checksum:
        raise CorruptTensor("the checksum does not match")
    return TensorBytes(header.dtype, shape, data)


def _checksum(data: bytes | bytearray | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
