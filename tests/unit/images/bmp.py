"""BMP files written field by field. Source: BITMAPCOREHEADER to BITMAPV5HEADER (Windows GDI)."""

import struct
from collections.abc import Iterator
from itertools import product

import numpy as np

from tests.unit.images.case import Case
from tests.unit.images.samples import HEIGHT, WIDTH, Samples, over_white, packed, samples

RAW, RLE8, RLE4, BITFIELDS = 0, 1, 2, 3
_HEADERS = (40, 52, 56, 108, 124)


def bmp(
    rows: list[bytes],
    width: int,
    bits: int,
    *,
    header: int = 40,
    compression: int = RAW,
    masks: tuple[int, ...] = (),
    palette: Samples | None = None,
    top_down: bool = False,
    stored: bytes | None = None,
) -> bytes:
    """A file of rows from top to bottom, each as the bits of its pixels; or of `stored` data."""
    height = len(rows)
    lines = [row + bytes(-len(row) % 4) for row in rows]
    data = b"".join(lines if top_down else lines[::-1]) if stored is None else stored
    colours = b"" if palette is None else _palette(palette, 3 if header == 12 else 4)
    if header == 12:
        fields = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        used = 0 if palette is None or len(palette) == 2**bits else len(palette)
        signed = -height if top_down else height
        fields = struct.pack(
            "<IiiHHIIiiII",
            header,
            width,
            signed,
            1,
            bits,
            compression,
            len(data),
            2835,
            2835,
            used,
            0,
        )
        if header == 40:
            fields += struct.pack(f"<{len(masks[:3])}I", *masks[:3])
        else:
            fields += struct.pack(f"<{len(masks)}I", *masks)
            fields = fields.ljust(header, b"\0")
    start = 14 + len(fields) + len(colours)
    return struct.pack("<2sIHHI", b"BM", start + len(data), 0, 0, start) + fields + colours + data


def _palette(colours: Samples, entry: int) -> bytes:
    blue_first = colours[:, ::-1].astype(np.uint8)
    return np.pad(blue_first, ((0, 0), (0, entry - 3))).tobytes()


def cases() -> Iterator[Case]:
    """Palettes, packed colours by masks, run lengths; every header; both directions."""
    for make in (_palettes, _packed_colours, _bytes_of_colour, _run_lengths):
        yield from make()


def _case(
    form: str, header: int, top_down: bool, data: bytes, pixels: Samples, *, read: bool = True
) -> Case:
    arrangement = f"header of {header}, {'down' if top_down else 'up'}"
    refused = None if read else "a BMP image with .* is not read"
    return Case(f"bmp-{form}", arrangement, data, pixels.astype(float), refused=refused)


def _palettes() -> Iterator[Case]:
    random = np.random.default_rng(9)
    for bits, header, top_down in product((1, 2, 4, 8), (12, *_HEADERS), (False, True)):
        if header == 12 and top_down:
            continue
        ramp = np.repeat(np.arange(2**bits)[:, None], 3, 1)
        looks = {
            "colours": random.integers(0, 256, (2**bits, 3)),
            "ramp": (ramp * 255 // (2**bits - 1)),
            "dark": ramp,  # entry i is the grey i
            "inverted": (ramp * 255 // (2**bits - 1))[::-1],
        }
        if header != 12:
            looks |= {"two": np.array([[0] * 3, [255] * 3]), "few": random.integers(0, 256, (2, 3))}
        for name, palette in looks.items():
            indices = samples(1, bits)[..., 0] % len(palette)
            data = bmp(
                packed(indices, bits),
                WIDTH,
                bits,
                header=header,
                palette=palette,
                top_down=top_down,
            )
            yield _case(
                f"palette{bits}-{name}", header, top_down, data, palette[indices], read=bits != 2
            )


def _field(values: Samples, mask: int) -> Samples:
    """What a mask selects, scaled to 0..255; opaque without a mask."""
    if not mask:
        return np.full(values.shape, 255.0)
    low = (mask & -mask).bit_length() - 1
    scaled: Samples = ((values & mask) >> low) * 255.0 / (mask >> low)
    return scaled


# Masks of red, green, blue and alpha.
_MASKS = {
    16: {
        "555": (0x7C00, 0x3E0, 0x1F, 0),
        "565": (0xF800, 0x7E0, 0x1F, 0),
        "1555": (0x7C00, 0x3E0, 0x1F, 0x8000),
        "444": (0xF00, 0xF0, 0xF, 0),
        "4444": (0xF00, 0xF0, 0xF, 0xF000),
        "bgr565": (0x1F, 0x7E0, 0xF800, 0),
    },
    32: {
        "bgrx": (0xFF0000, 0xFF00, 0xFF, 0),
        "bgra": (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
        "rgbx": (0xFF, 0xFF00, 0xFF0000, 0),
        "rgba": (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
        "xbgr": (0xFF000000, 0xFF0000, 0xFF00, 0),
        "abgr": (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
        "bgxr": (0xFF000000, 0xFF00, 0xFF, 0),
        "bgar": (0xFF000000, 0xFF00, 0xFF, 0xFF0000),
        "2-10-10-10": (0x3FF00000, 0xFFC00, 0x3FF, 0),
        "none": (0, 0, 0, 0),
    },
}
# What Pillow does not read.
_UNREAD = {"444", "4444", "bgr565", "1555", "rgbx", "2-10-10-10", "none"}


def _packed_colours() -> Iterator[Case]:
    for bits, looks in _MASKS.items():
        values = samples(1, bits)[..., 0]
        for (name, masks), header, top_down in product(looks.items(), _HEADERS, (False, True)):
            if masks[3] and header < 56:
                continue  # those headers have no place for it
            seen = np.stack([_field(values, mask) for mask in masks[:3]], -1)
            data = bmp(
                packed(values, bits, order="<"),
                WIDTH,
                bits,
                header=header,
                compression=BITFIELDS,
                masks=masks,
                top_down=top_down,
            )
            seen = over_white(seen, _field(values, masks[3]) / 255)
            yield _case(f"{bits}-{name}", header, top_down, data, seen, read=name not in _UNREAD)


def _bytes_of_colour() -> Iterator[Case]:
    for bits, header, top_down in product((16, 24, 32), (12, *_HEADERS), (False, True)):
        if header == 12 and (top_down or bits != 24):
            continue
        if bits == 16:
            words = samples(1, 16)[..., 0]
            masks = _MASKS[16]["555"]
            seen, rows = (
                np.stack([_field(words, mask) for mask in masks[:3]], -1),
                packed(words, 16, order="<"),
            )
        else:
            values = samples(bits // 8, 8)
            seen = values[..., 2::-1].astype(float)
            rows = packed(values.reshape(HEIGHT, -1), 8)
        data = bmp(rows, WIDTH, bits, header=header, top_down=top_down)
        yield _case(f"{bits}", header, top_down, data, seen)


def _run_lengths() -> Iterator[Case]:
    """Runs, literal stretches, ends of line; with gaps in `delta`."""
    for compression, bits in ((RLE8, 8), (RLE4, 4)):
        colours = np.random.default_rng(11).integers(0, 256, (2**bits, 3))
        greys = np.repeat(np.arange(2**bits)[:, None] * 255 // (2**bits - 1), 3, 1)
        indices = samples(1, bits)[..., 0]
        indices[2:4] = indices[2:4, :1]  # whole runs
        gap = indices.copy()
        gap[5, 10:] = 0
        two = np.array([[0] * 3, [255] * 3])
        looks = (
            ("colours", colours, indices),
            ("greys", greys, indices),
            ("two", two, indices % 2),
            ("gap", colours, gap),
        )
        for name, palette, shown in looks:
            lines = [
                _encoded(row, bits, 10 if name == "gap" and number == 5 else WIDTH)
                for number, row in enumerate(shown)
            ]
            stored = b"".join(lines[::-1]) + b"\0\1"
            data = bmp(
                [b""] * HEIGHT, WIDTH, bits, compression=compression, palette=palette, stored=stored
            )
            yield _case(f"rle{bits}-{name}", 40, False, data, palette[shown])


def _encoded(row: Samples, bits: int, kept: int) -> bytes:
    row = row[:kept]
    if (row == row[0]).all():
        value = int(row[0])
        return bytes([len(row), value << 4 | value if bits == 4 else value, 0, 0])
    literal = packed(row[None, :], bits)[0]
    literal += bytes(len(literal) % 2)
    return bytes([0, len(row)]) + literal + b"\0\0"
