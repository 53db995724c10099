"""What a format lets a small file repeat is counted before anything is decoded."""

import struct
from dataclasses import replace

import numpy as np
import pytest

from glm4v.errors import InvalidRequest
from glm4v.images import ImageLimits, inspect
from glm4v.images.pixels import decode
from tests.unit.images import bmp, jpeg, png, tiff_writer
from tests.unit.images.samples import samples

LIMITS = ImageLimits()
VALUES = np.arange(12).reshape(2, 2, 3)


def gif(blocks: int) -> bytes:
    """One pixel, and comments of one byte before it."""
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes([255, 0, 0, 0, 0, 0])
    image = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2\x44\1\0;"
    return head + b"\x21\xfe" + b"\1c" * blocks + b"\0" + image


def webp(chunks: int) -> bytes:
    """A canvas that says that it is animated, and empty chunks."""
    canvas = b"VP8X" + struct.pack("<IB3x", 10, 2) + bytes(6)
    body = b"WEBP" + canvas + b"ANMF\0\0\0\0" * chunks
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff(**more: int) -> bytes:
    """One pixel of grey, and tags nobody knows."""
    tags = {40_000 + number: (3, [0]) for number in range(more.get("entries", 0))}
    layout = tiff_writer.Layout(rows=1)
    count = more.get("strips", 1)
    return tiff_writer.tiff(np.zeros((count, 1, 1), np.uint8), 8, 1, layout, more=tags)


@pytest.mark.parametrize(
    ("bound", "most", "fits", "too_many", "what"),
    [
        (
            "max_scans", 5,
            jpeg.jpeg(jpeg.levels(1), repeated=5), jpeg.jpeg(jpeg.levels(1), repeated=6),
            "JPEG image has more than 5 scans",
        ),
        (
            "max_parts", 8,
            jpeg.jpeg(jpeg.levels(1), repeated=3),
            jpeg.jpeg(jpeg.levels(1), between=jpeg.segment(0xFE, b"") * 9),
            "JPEG image has more than 8 segments",
        ),
        (
            "max_parts", 6,
            png.png(VALUES, 8, png.RGB, extra=png.chunk(b"tEXt", b"a\0b") * 3),
            png.png(VALUES, 8, png.RGB, extra=png.chunk(b"tEXt", b"a\0b") * 4),
            "PNG image has more than 6 chunks",
        ),
        ("max_parts", 5, gif(4), gif(6), "GIF image has more than 5 blocks"),
        ("max_parts", 3, webp(2), webp(3), "WebP image has more than 3 chunks"),
        ("max_parts", 3, tiff(strips=3), tiff(strips=4), "TIFF image has more than 3 strips"),
        ("max_entries", 15, tiff(entries=4), tiff(entries=6), "more than 15 entries in its"),
    ],
)  # fmt: skip
def test_repetitions_are_bounded(
    bound: str, most: int, fits: bytes, too_many: bytes, what: str
) -> None:
    limits = replace(LIMITS, **{bound: most})
    inspect(fits, limits)
    for function in (inspect, decode):
        with pytest.raises(InvalidRequest, match=what):
            function(too_many, limits)
    inspect(too_many, LIMITS)


def test_run_lengths_are_bounded_by_their_pixels() -> None:
    """Pillow decodes them in Python, a byte at a time."""
    two = np.array([[0, 0, 0], [255, 255, 255]])
    data = bmp.bmp([b""] * 3, 5, 8, compression=bmp.RLE8, palette=two, stored=b"\5\1\0\0" * 3)
    inspect(data, replace(LIMITS, max_run_pixels=15))
    with pytest.raises(InvalidRequest, match="more than 14 pixels in run lengths"):
        inspect(data, replace(LIMITS, max_run_pixels=14))


def test_only_what_the_pixels_need_reaches_the_decoder() -> None:
    values = samples(3, 8)
    layout = tiff_writer.Layout(">")
    plain = tiff_writer.tiff(values, 8, tiff_writer.RGB, layout)
    unknown = {40_000 + number: (3, [7, 7, 7]) for number in range(200)}
    crowded = tiff_writer.tiff(values, 8, tiff_writer.RGB, layout, more=unknown)
    files = {
        crowded: plain,
        png.png(VALUES, 8, png.RGB, extra=png.chunk(b"tEXt", b"a\0b")): png.png(VALUES, 8, png.RGB),
        gif(3): gif(0),
        jpeg.jpeg(jpeg.levels(3), between=jpeg.segment(0xFE, b"x")): jpeg.jpeg(jpeg.levels(3)),
    }
    for crowded, plain in files.items():
        assert len(inspect(crowded, LIMITS).essence(crowded)) <= len(crowded)
        assert decode(crowded, LIMITS).tobytes() == decode(plain, LIMITS).tobytes()


def test_a_tag_that_stands_twice_is_refused() -> None:
    """Decoders disagree on which one counts, so the bounds could be held against the other."""
    data = bytearray(tiff())
    position = data.index(struct.pack("<HHI", 257, 4, 1))
    data[position : position + 2] = struct.pack("<H", 256)
    with pytest.raises(InvalidRequest, match="damaged"):
        inspect(bytes(data), LIMITS)


def test_only_the_first_of_what_may_say_the_orientation_is_looked_at() -> None:
    """Each may be decompressed to a mebibyte before that is known."""
    text = png.chunk(b"zTXt", b"Raw profile type exif\0\0" + png.compressed(bytes(2**18)))
    once, often = (png.png(VALUES, 8, png.RGB, extra=text * count) for count in (1, 500))
    assert inspect(often, LIMITS).essence(often) == once


def test_fill_bytes_are_walked_over_once() -> None:
    """A search that began anew at each of them would take longer than tests may."""
    data = b"\xff\xd8" + b"\xff" * 2**21 + b"\0"
    with pytest.raises(InvalidRequest, match="damaged"):
        inspect(data, LIMITS)
