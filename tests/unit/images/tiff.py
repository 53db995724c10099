"""Every form of TIFF image, in every arrangement that a writer may choose."""

from collections.abc import Iterator
from itertools import product

import numpy as np

from tests.unit.images.case import Case
from tests.unit.images.samples import (
    HEIGHT,
    WIDTH,
    Samples,
    eight,
    grey_rgb,
    over_white,
    over_white_premultiplied,
    samples,
)
from tests.unit.images.tiff_writer import (
    BLACK_IS_ZERO,
    COMPRESSIONS,
    LAB,
    PALETTE,
    RGB,
    SEPARATED,
    WHITE_IS_ZERO,
    YCBCR,
    Layout,
    assembled,
    tiff,
)

_REFUSAL = "a TIFF image with .* is not read"
_GREYS = {WHITE_IS_ZERO: "white-is-zero", BLACK_IS_ZERO: "black-is-zero"}
_NOT_ALPHA, _PREMULTIPLIED, _ALPHA = 0, 1, 2


def cases() -> Iterator[Case]:
    """All of them."""
    for make in (
        _greys,
        _greys_with_alpha,
        _colours,
        _colours_with_extra,
        _palettes,
        _palettes_with_extra,
        _separated,
        _ycbcr,
        _lab,
        _without_an_agreed_look,
    ):
        yield from make()


def _layouts(bits: int, *, planes: bool = False) -> Iterator[Layout]:
    for order, compression, tiled in product("<>", COMPRESSIONS, (False, True)):
        yield Layout(order, compression, tiled)
    for order in "<>":
        yield Layout(order, rows=4)
        yield Layout(order, "deflate", rows=4)
        yield Layout(order, reversed_bits=True)
        yield Layout(order, "packbits", reversed_bits=True)
        if bits in (8, 16):
            yield Layout(order, "deflate", predictor=True)
            yield Layout(order, "lzw", predictor=True, tiled=True)
    if planes:
        for order, compression, tiled in product("<>", ("raw", "deflate"), (False, True)):
            yield Layout(order, compression, tiled, planar=True)
        for order, compression in product("<>", ("raw", "deflate")):
            yield Layout(order, compression, rows=4, planar=True)


def _case(
    name: str, data: bytes, pixels: Samples, layout: Layout, *, read: bool, tolerance: float = 1.0
) -> Case:
    refused = None if read else _REFUSAL
    return Case(f"tiff-{name}", layout.name, data, pixels, refused=refused, tolerance=tolerance)


def _is_fill_read(bits: int, layout: Layout) -> bool:
    """Reversed bits are read where something writes them: fax, and packed shallow samples."""
    return not layout.reversed_bits or bits == 1 or (bits < 12 and layout.compression != "raw")


def _greys() -> Iterator[Case]:
    for bits, photometric in product((1, 2, 4, 8, 12, 16), _GREYS):
        values = samples(1, bits)
        seen = grey_rgb(eight(values, bits)[..., 0])
        seen = 255 - seen if photometric == WHITE_IS_ZERO else seen
        for layout in _layouts(bits):
            read = _is_fill_read(bits, layout) and (bits != 12 or layout.order == "<")
            data = tiff(values, bits, photometric, layout)
            yield _case(f"{_GREYS[photometric]}{bits}", data, seen, layout, read=read)


def _greys_with_alpha() -> Iterator[Case]:
    for bits, photometric, kind in product((8, 16), _GREYS, (0, 1, 2)):
        values = samples(2, bits)
        if kind == _PREMULTIPLIED:
            values.sort(axis=-1)  # no colour above its opacity
        colour, opacity = np.moveaxis(eight(values, bits), -1, 0)
        colour = 255 - colour if photometric == WHITE_IS_ZERO else colour
        seen = _seen(grey_rgb(colour), opacity / 255, kind)
        for layout in _layouts(bits, planes=True):
            read = bits == 8 and photometric == BLACK_IS_ZERO
            read = read and not layout.planar and not layout.reversed_bits
            data = tiff(values, bits, photometric, layout, extra=(kind,))
            name = f"{_GREYS[photometric]}{bits}-extra{kind}"
            yield _case(name, data, seen, layout, read=read, tolerance=2)


def _seen(colour: Samples, opacity: Samples, kind: int) -> Samples:
    if kind == _NOT_ALPHA:
        return colour
    if kind == _PREMULTIPLIED:
        return over_white_premultiplied(colour, opacity)
    return over_white(colour, opacity)


def _colours() -> Iterator[Case]:
    for bits in (4, 8, 16):
        values = samples(3, bits)
        for layout in _layouts(bits, planes=True):
            read = bits == 8 and _is_fill_read(bits, layout)
            read = read or (bits == 16 and not layout.reversed_bits and not layout.is_raw_planar)
            data = tiff(values, bits, RGB, layout)
            yield _case(f"rgb{bits}", data, eight(values, bits), layout, read=read)


def _colours_with_extra() -> Iterator[Case]:
    """Opacity of each kind; without a tag that says which; and a sample behind it."""
    for bits, extra in product((8, 16), ((0,), (1,), (2,), (), (0, 0), (1, 0), (2, 0))):
        values = samples(max(4, 3 + len(extra)), bits)
        kind = extra[0] if extra else _ALPHA
        if kind == _PREMULTIPLIED:
            values[..., :3] = values[..., :3] * values[..., 3:4].astype(np.uint64) // (2**bits - 1)
        colour = eight(values, bits)
        seen = _seen(colour[..., :3], colour[..., 3] / 255, kind)
        for layout in _layouts(bits, planes=True):
            read = not layout.reversed_bits and (
                len(extra) < 2 or (bits == 8 and not layout.planar)
            )
            if layout.is_raw_planar:
                read = read and bits == 8 and extra == (_ALPHA,)
            read = read and (bool(extra) or not layout.planar)
            data = tiff(values, bits, RGB, layout, extra=extra)
            name = f"rgb{bits}-extra{''.join(map(str, extra)) or '-untold'}"
            yield _case(name, data, seen, layout, read=read, tolerance=3)


def _palette(bits: int) -> tuple[Samples, dict[int, tuple[int, list[int]]]]:
    colours = np.random.default_rng(5).integers(0, 2**16, (3, 2**bits), np.uint16)
    return colours, {320: (3, [int(value) for value in colours.ravel()])}


def _palettes() -> Iterator[Case]:
    for bits in (1, 2, 4, 8):
        indices = samples(1, bits)
        colours, more = _palette(bits)
        seen = np.moveaxis(eight(colours[:, indices[..., 0]], 16), 0, -1)
        for layout in _layouts(bits):
            read = not layout.reversed_bits or layout.compression != "raw"
            data = tiff(indices, bits, PALETTE, layout, more=more)
            yield _case(f"palette{bits}", data, seen, layout, read=read)


def _palettes_with_extra() -> Iterator[Case]:
    for kind in (_NOT_ALPHA, _PREMULTIPLIED, _ALPHA):
        values = samples(2, 8)
        colours, more = _palette(8)
        seen = np.moveaxis(eight(colours[:, values[..., 0]], 16), 0, -1)
        seen = over_white(seen, values[..., 1] / 255) if kind == _ALPHA else seen
        for layout in _layouts(8, planes=True):
            read = kind != _PREMULTIPLIED and not layout.planar and not layout.reversed_bits
            data = tiff(values, 8, PALETTE, layout, extra=(kind,), more=more)
            yield _case(f"palette8-extra{kind}", data, seen, layout, read=read, tolerance=2)


def _separated() -> Iterator[Case]:
    for bits, extra, ink_set in ((8, (), 1), (16, (), 1), (8, (0,), 1), (8, (), 2)):
        values = samples(4 + len(extra), bits)
        ink = eight(values, bits) / 255
        seen = 255 * (1 - ink[..., :3]) * (1 - ink[..., 3:4])
        for layout in _layouts(bits, planes=True):
            read = ink_set == 1 and not layout.reversed_bits and not (extra and layout.planar)
            read = read and not (bits == 16 and layout.is_raw_planar)
            more = {332: (3, [ink_set])}
            data = tiff(values, bits, SEPARATED, layout, extra=extra, more=more)
            name = f"cmyk{bits}" if ink_set == 1 else f"inks{bits}"
            name += "".join(f"-extra{kind}" for kind in extra)
            yield _case(name, data, seen, layout, read=read, tolerance=3)


def _ycbcr() -> Iterator[Case]:
    values = samples(3, 8)
    luma, blue, red = np.moveaxis(values.astype(float), -1, 0)
    green = luma - 0.344136 * (blue - 128) - 0.714136 * (red - 128)
    seen = np.stack([luma + 1.402 * (red - 128), green, luma + 1.772 * (blue - 128)], -1)
    seen = seen.clip(0, 255)
    for layout in _layouts(8, planes=True):
        read = not layout.planar and not layout.reversed_bits
        data = tiff(values, 8, YCBCR, layout, more={530: (3, [1, 1])})
        yield _case("ycbcr8", data, seen, layout, read=read, tolerance=2)
    # Four luminances and one colour in a group, which is what a file without the tag means.
    shade = np.array([[[200, 90, 60]]])
    block = bytes([200] * 4 + [90, 60]) * 2
    tags: dict[int, tuple[int, list[int]]] = {
        256: (4, [4]), 257: (4, [2]), 258: (3, [8] * 3), 259: (3, [1]), 262: (3, [YCBCR]),
        277: (3, [3]), 278: (4, [2]), 284: (3, [1]),
    }  # fmt: skip
    seen = np.broadcast_to(shade, (2, 4, 3)).astype(float)
    data = assembled("<", tags, [block], 273, 279)
    yield _case("ycbcr8-subsampled", data, seen, Layout(), read=False)


def _lab() -> Iterator[Case]:
    """Grey, which needs no colour science: L* of 0, 50 and 100 in bytes; CIE 1976."""
    lightness = np.repeat([[0, 128, 255]], 2, 0)
    values = np.stack([lightness, lightness * 0, lightness * 0], -1).astype(np.uint32)
    levels = []
    for step in (0, 128, 255):
        luminance = ((step * 100 / 255 + 16) / 116) ** 3 if step else 0.0
        levels.append(255 * (1.055 * luminance ** (1 / 2.4) - 0.055) if step else 0.0)
    seen = grey_rgb(np.array([levels, levels]))
    for order, compression in product("<>", COMPRESSIONS):
        layout = Layout(order, compression, rows=2)
        yield _case("lab8", tiff(values, 8, LAB, layout), seen, layout, read=True, tolerance=2)


def _without_an_agreed_look() -> Iterator[Case]:
    """What is black, and what white?"""
    nothing = np.zeros((HEIGHT, WIDTH, 3))
    forms = ((8, 2), (16, 2), (32, 1), (32, 2), (32, 3), (16, 3), (64, 3))
    for (bits, sample_format), photometric, order in product(forms, _GREYS, "<>"):
        layout = Layout(order)
        values = samples(1, min(bits, 32))
        data = tiff(values, bits, photometric, layout, sample_format=sample_format)
        kind = {1: "unsigned", 2: "signed", 3: "float"}[sample_format]
        name = f"{_GREYS[photometric]}-{kind}{bits}"
        yield _case(name, data, nothing, layout, read=False)
