"""PNG: a row of chunks. Source: W3C PNG, third edition."""

import struct
import zlib
from dataclasses import dataclass

from glm4v.images.header import Damaged, ImageHeader, not_read, too_many
from glm4v.images.limits import ImageLimits

MAGIC = b"\x89PNG\r\n\x1a\n"
GREY, RGB = 0, 2

_DEPTHS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_MOST_METADATA = 2**16  # bytes of a chunk that may say the orientation, as much as a JPEG has
_MOST_TEXT = 2**20  # bytes; Pillow reads no more
_ORIENTATION_IN_TEXT = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")


@dataclass(frozen=True, slots=True)
class PngHeader(ImageHeader):
    """And what transparency by one colour refers to."""

    depth: int  # bits a sample
    colour: int  # type
    kept: tuple[tuple[int, int], ...]  # chunks: from, to

    def essence(self, data: bytes) -> bytes:
        """Pixels, palette, transparency, orientation; of an animation its still image."""
        return MAGIC + b"".join(data[start:end] for start, end in self.kept)


def read(data: bytes, limits: ImageLimits) -> PngHeader:
    """Walk over all chunks."""
    if data[12:16] == b"CgBI":  # what Xcode makes of PNG files for apps
        raise not_read("PNG", "Apple's extension CgBI")
    if data[12:16] != b"IHDR":
        raise Damaged
    width, height, depth, colour, compression, filtering, interlace = struct.unpack_from(
        ">IIBBBBB", data, 16
    )
    if depth not in _DEPTHS.get(colour, ()):
        raise not_read("PNG", f"colour type {colour} and {depth} bits a sample")
    if compression or filtering or interlace > 1:
        raise not_read("PNG", f"methods {compression}, {filtering} and {interlace}")
    kept = _needed_chunks(data, limits)
    return PngHeader("PNG", width, height, depth, colour, kept)


def _needed_chunks(data: bytes, limits: ImageLimits) -> tuple[tuple[int, int], ...]:
    kept: list[tuple[int, int]] = []
    seen: set[bytes] = set()  # of what may say the orientation; a library takes one of each
    has_pixels = False
    position = len(MAGIC)
    for _ in range(limits.max_parts):
        if position + 8 > len(data):
            break  # cut, which the decoder tells if it lacks anything
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        has_pixels = has_pixels or kind == b"IDAT"
        name = _orientation_name(kind, data, position + 8)
        if kind in _NEEDED or (
            name and name not in seen and _is_small(name, data[position + 8 : end])
        ):
            kept.append((position, end))
        seen.add(name)
        position = end
        if kind == b"IEND":
            break
    else:
        raise too_many("PNG", "chunks", limits.max_parts)
    if not has_pixels:
        raise Damaged
    return tuple(kept)


def _orientation_name(kind: bytes, data: bytes, start: int) -> bytes:
    """What a chunk is called that may say the orientation; nothing for others."""
    if kind == b"eXIf":
        return kind
    if kind in (b"zTXt", b"iTXt"):
        for name in _ORIENTATION_IN_TEXT:
            if data.startswith(name, start):
                return name
    return b""


def _is_small(name: bytes, content: bytes) -> bool:
    if len(content) > _MOST_METADATA:
        return False
    compressed = content[len(name) :].lstrip(b"\0\1")
    try:
        return len(zlib.decompressobj().decompress(compressed, _MOST_TEXT)) < _MOST_TEXT
    except zlib.error:  # not compressed, or damaged
        return True
