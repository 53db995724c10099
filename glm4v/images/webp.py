"""WebP: chunks of a RIFF file. Source: RFC 9649."""

import struct

from glm4v.images.header import Damaged, ImageHeader, too_many
from glm4v.images.limits import ImageLimits

MAGIC = b"RIFF"
KIND = b"WEBP"  # from byte 8 on


def read(data: bytes, limits: ImageLimits) -> ImageHeader:
    """The canvas, and a count of all chunks: frames of an animation are among them."""
    size = _canvas(data)
    position = 12
    for _ in range(limits.max_parts + 1):
        if position + 8 > len(data):
            return ImageHeader("WEBP", *size)
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8 + length + length % 2
    raise too_many("WebP", "chunks", limits.max_parts)


def _canvas(data: bytes) -> tuple[int, int]:
    kind, content = data[12:16], data[20:30]
    if kind == b"VP8X":
        width, height = (int.from_bytes(content[at : at + 3], "little") + 1 for at in (4, 7))
    elif kind == b"VP8 ":
        width, height = (each & 0x3FFF for each in struct.unpack("<HH", content[6:10]))
    elif kind == b"VP8L":
        bits = int.from_bytes(content[1:5], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        raise Damaged
    return width, height
