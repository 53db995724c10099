"""Tensors of the Open Inference Protocol, version 2: names, types, shapes and elements.

Sources: KServe, "Open Inference Protocol" (datatypes, raw tensor contents), and Triton, "Binary
Tensor Data Extension", which have the same binary form.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from glm4v.errors import InvalidRequest

Element = bytes | bool | int | float

BYTES = "BYTES"
_LENGTH = struct.Struct("<I")  # before each element of BYTES
_FORMATS = {  # of `struct`, of one element
    "BOOL": "?",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "FP32": "f",
    "FP64": "d",
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a request; its elements are in row-major order.

    Raises InvalidRequest where their number is not that of the shape.
    """

    name: str
    datatype: str
    shape: Sequence[int]
    elements: Sequence[Element]

    def __post_init__(self) -> None:
        if any(size < 0 for size in self.shape) or math.prod(self.shape) != len(self.elements):
            raise InvalidRequest(
                f"input {self.name!r} has the shape {list(self.shape)} and {len(self.elements)} "
                "elements; send as many as the shape has"
            )

    @property
    def only(self) -> Element:
        """Its one element. Raises InvalidRequest for another number of them."""
        if len(self.elements) != 1:
            raise InvalidRequest(
                f"input {self.name!r} has {len(self.elements)} elements; send one, in the shape [1]"
            )
        return self.elements[0]


def check_datatype(name: str, datatype: str) -> None:
    """Refuse a type that no tensor of this model has."""
    if datatype != BYTES and datatype not in _FORMATS:
        raise InvalidRequest(
            f"input {name!r} has the datatype {datatype!r}; {BYTES}, {', '.join(_FORMATS)} are read"
        )


def unpack(name: str, datatype: str, data: bytes) -> list[Element]:
    """The elements in the binary form of a tensor. Raises InvalidRequest."""
    check_datatype(name, datatype)
    if datatype == BYTES:
        return list(_unpack_bytes(name, data))
    form = struct.Struct("<" + _FORMATS[datatype])
    if len(data) % form.size:
        raise InvalidRequest(
            f"input {name!r} has {len(data)} bytes; elements of {datatype} have {form.size} each"
        )
    return [element for (element,) in form.iter_unpack(data)]


def pack(elements: Sequence[bytes]) -> bytes:
    """The binary form of a tensor of BYTES."""
    return b"".join(_LENGTH.pack(len(each)) + each for each in elements)


def pack_counts(elements: Sequence[int]) -> bytes:
    """The binary form of a tensor of UINT32."""
    return struct.pack(f"<{len(elements)}I", *elements)


def _unpack_bytes(name: str, data: bytes) -> list[bytes]:
    elements: list[bytes] = []
    at = 0
    while at < len(data):
        start = at + _LENGTH.size
        end = start + _LENGTH.unpack_from(data, at)[0] if start <= len(data) else len(data) + 1
        if end > len(data):
            raise InvalidRequest(
                f"input {name!r}: element {len(elements)} of BYTES ends behind the {len(data)} "
                "bytes of the tensor; write the length of each in 4 bytes, little-endian, before it"
            )
        elements.append(data[start:end])
        at = end
    return elements
