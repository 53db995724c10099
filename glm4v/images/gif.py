"""GIF: blocks up to the first image. Source: GIF89a specification."""

import struct
from dataclasses import dataclass

from glm4v.images.header import Damaged, ImageHeader, too_many
from glm4v.images.limits import ImageLimits

MAGICS = (b"GIF87a", b"GIF89a")

_EXTENSION, _IMAGE = 0x21, 0x2C
_GRAPHIC_CONTROL = 0xF9


@dataclass(frozen=True, slots=True)
class GifHeader(ImageHeader):
    """And where its first image is."""

    tables_end: int  # of the header and the colours of all images
    control: tuple[int, int]  # from, to: what says the transparent colour; empty without
    image: int  # where it begins

    def essence(self, data: bytes) -> bytes:
        """The first image alone."""
        start, end = self.control
        return data[: self.tables_end] + data[start:end] + data[self.image :]


def read(data: bytes, limits: ImageLimits) -> GifHeader:
    """Walk to the first image; the canvas reaches to its edges."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    tables_end = position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    control = (0, 0)
    parts = 0
    while data[position] != _IMAGE:
        if data[position] != _EXTENSION:
            raise Damaged
        start, kind = position, data[position + 1]
        position += 2
        while data[position]:
            position += 1 + data[position]
            parts += 1
            if parts > limits.max_parts:
                raise too_many("GIF", "blocks before its first image", limits.max_parts)
        position += 1
        parts += 1
        if kind == _GRAPHIC_CONTROL:
            control = (start, position)
    left, top, right, down = struct.unpack_from("<HHHH", data, position + 1)
    if not right or not down:
        raise Damaged
    size = max(width, left + right), max(height, top + down)
    return GifHeader("GIF", *size, tables_end, control, position)
