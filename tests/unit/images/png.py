"""PNG files written chunk by chunk. Source: W3C PNG, third edition."""

import struct
import zlib
from collections.abc import Iterator
from itertools import product

import numpy as np

from tests.unit.images.case import Case
from tests.unit.images.samples import (
    Samples,
    eight,
    grey_rgb,
    over_white,
    packed,
    samples,
)

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
_CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
_DEPTHS = {
    GREY: (1, 2, 4, 8, 16),
    RGB: (8, 16),
    PALETTE: (1, 2, 4, 8),
    GREY_ALPHA: (8, 16),
    RGBA: (8, 16),
}
# First row, first column, and the steps of each pass: 8.1.
_ADAM7 = [
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
]


def chunk(kind: bytes, content: bytes) -> bytes:
    """Length, name, content, check."""
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


compressed = zlib.compress


def png(
    values: Samples, depth: int, colour: int, *, extra: bytes = b"", interlaced: bool = False
) -> bytes:
    """A file of [height, width, channels]; `extra` is what stands before the pixels."""
    height, width, _ = values.shape
    passes = [values[row::down, column::right] for row, column, down, right in _ADAM7]
    rows = b"".join(
        b"\0" + row
        for part in (passes if interlaced else [values])
        if part.size
        for row in packed(part.reshape(len(part), -1), depth)
    )
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra
        + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )  # fmt: skip


def cases() -> Iterator[Case]:
    """Every depth and colour type, interlaced or not, with every form of transparency."""
    for colour, interlaced in product(_CHANNELS, (False, True)):
        for depth in _DEPTHS[colour]:
            values = samples(_CHANNELS[colour], depth)
            for name, extra, pixels in _forms(colour, depth, values):
                data = png(values, depth, colour, extra=extra, interlaced=interlaced)
                woven = "interlaced" if interlaced else "in order"
                tolerance = 2.0 if "alpha16" in name or "rgba16" in name else 1.0
                yield Case(f"png-{name}", woven, data, pixels, tolerance=tolerance)


def _forms(colour: int, depth: int, values: Samples) -> Iterator[tuple[str, bytes, Samples]]:
    if colour == PALETTE:
        yield from _palettes(depth, values[..., 0])
        return
    seen = eight(values, depth)
    top = 2**depth - 1
    if colour == GREY:
        yield f"grey{depth}", b"", grey_rgb(seen[..., 0])
        for clear in {0, top, int(values[5, 5, 0])}:
            opacity = (values[..., 0] != clear).astype(float)
            declared = chunk(b"tRNS", struct.pack(">H", clear))
            yield f"grey{depth}-clear{clear}", declared, over_white(grey_rgb(seen[..., 0]), opacity)
    elif colour == RGB:
        yield f"rgb{depth}", b"", seen
        clear_rgb = values[5, 5].copy()
        if depth == 16:  # a neighbour that shares the high bytes, one that shares the low ones
            values[5, 6], values[5, 7] = clear_rgb ^ 0x01, clear_rgb ^ 0x100
            seen = eight(values, depth)
        opacity = (values != clear_rgb).any(-1).astype(float)
        declared = chunk(b"tRNS", struct.pack(">3H", *clear_rgb))
        yield f"rgb{depth}-clear", declared, over_white(seen, opacity)
    elif colour == GREY_ALPHA:
        opacity = seen[..., 1] / 255
        yield f"grey-alpha{depth}", b"", over_white(grey_rgb(seen[..., 0]), opacity)
    else:
        yield f"rgba{depth}", b"", over_white(seen[..., :3], seen[..., 3] / 255)


def _palettes(depth: int, indices: Samples) -> Iterator[tuple[str, bytes, Samples]]:
    colours = np.random.default_rng(5).integers(0, 256, (2**depth, 3), np.uint8)
    stored = chunk(b"PLTE", colours.tobytes())
    yield f"palette{depth}", stored, colours[indices].astype(float)
    for name, alpha in (
        ("clear0", bytes([0])),
        ("clear-last", bytes([255] * (2**depth - 1) + [0])),
        ("alphas", bytes([0, 128, 255, 7][: 2**depth])),
    ):
        opacity = np.full(2**depth, 255.0)
        opacity[: len(alpha)] = list(alpha)
        pixels = over_white(colours[indices].astype(float), opacity[indices] / 255)
        yield f"palette{depth}-{name}", stored + chunk(b"tRNS", alpha), pixels
