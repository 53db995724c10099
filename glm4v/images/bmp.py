"""BMP: headers of several ages. Source: BITMAPCOREHEADER … BITMAPV5HEADER of Windows GDI."""

import struct
from dataclasses import dataclass

from glm4v.images.header import Damaged, ImageHeader, not_read, too_many
from glm4v.images.limits import ImageLimits

MAGIC = b"BM"

_CORE, _OS2 = 12, 64  # sizes of headers
_SIZES = (_CORE, 40, 52, 56, _OS2, 108, 124)
_RAW, _RLE8, _RLE4, _BITFIELDS = 0, 1, 2, 3
_BITS = {_RAW: (1, 4, 8, 16, 24, 32), _RLE8: (8,), _RLE4: (4,), _BITFIELDS: (16, 32)}
# Bits of a pixel and the masks of red, green, blue and alpha: those that Pillow reads right.
_MASKS = {
    (16, 0x7C00, 0x3E0, 0x1F, 0),
    (16, 0xF800, 0x7E0, 0x1F, 0),
    (32, 0xFF0000, 0xFF00, 0xFF, 0),
    (32, 0xFF000000, 0xFF0000, 0xFF00, 0),
    (32, 0xFF000000, 0xFF00, 0xFF, 0),
    (32, 0xFF000000, 0xFF0000, 0xFF00, 0xFF),
    (32, 0xFF, 0xFF00, 0xFF0000, 0xFF000000),
    (32, 0xFF0000, 0xFF00, 0xFF, 0xFF000000),
    (32, 0xFF000000, 0xFF00, 0xFF, 0xFF0000),
}


@dataclass(frozen=True, slots=True)
class BmpHeader(ImageHeader):
    """And where its palette is."""

    palette: tuple[int, int]  # from, to; empty without
    entry: int  # bytes of a colour: blue, green, red, perhaps one more

    def colours(self, data: bytes) -> bytes:
        """The palette as red, green, blue."""
        start, end = self.palette
        return b"".join(data[at : at + 3][::-1] for at in range(start, end, self.entry))

    def essence(self, data: bytes) -> bytes:
        """With a palette that Pillow does not take for a ramp of grey.

        It would read the indices as grey values then, some of them with the wrong depth.
        """
        start, end = self.palette
        if start == end:
            return data
        return data[:start] + b"\1\2\3" + data[start + 3 :]


def read(data: bytes, limits: ImageLimits) -> BmpHeader:
    """Size, depth, masks."""
    (size,) = struct.unpack_from("<I", data, 14)
    if size not in _SIZES:
        raise not_read("BMP", f"a header of {size} bytes")
    if size == _CORE:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = used = 0
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
        (used,) = struct.unpack_from("<I", data, 46)
    if (size == _OS2 and compression > _RLE4) or bits not in _BITS.get(compression, ()):
        raise not_read("BMP", f"{bits} bits a pixel and compression {compression}")
    if width <= 0 or not height:
        raise Damaged
    if compression == _BITFIELDS:
        _check_masks(data, size, bits)
    if compression in (_RLE8, _RLE4) and width * abs(height) > limits.max_run_pixels:
        raise too_many("BMP", "pixels in run lengths", limits.max_run_pixels)
    return BmpHeader("BMP", width, abs(height), *_palette(data, size, bits, used))


def _check_masks(data: bytes, size: int, bits: int) -> None:
    red, green, blue = struct.unpack_from("<III", data, 54)
    alpha = struct.unpack_from("<I", data, 66)[0] if size >= 56 else 0
    if (bits, red, green, blue, alpha) not in _MASKS:
        masks = ", ".join(f"{mask:#x}" for mask in (red, green, blue, alpha))
        raise not_read("BMP", f"{bits} bits a pixel and the masks {masks}")


def _palette(data: bytes, size: int, bits: int, used: int) -> tuple[tuple[int, int], int]:
    entry = 3 if size == _CORE else 4
    if bits > 8:
        return (0, 0), entry
    start, count = 14 + size, used or 1 << bits
    if count > 1 << bits:
        raise Damaged
    end = start + entry * count
    if end > len(data):
        raise Damaged
    return (start, end), entry
