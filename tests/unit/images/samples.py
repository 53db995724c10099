"""Sample values of test images, and what they look like as 8-bit RGB over white."""

from typing import Any

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[Any]

HEIGHT, WIDTH = 9, 21  # no row of any depth but 8 ends on a byte


def samples(channels: int, bits: int) -> Samples:
    """Every value once at least for shallow ones, and both ends: [HEIGHT, WIDTH, channels]."""
    random = np.random.default_rng(bits * 10 + channels)
    top = 2**bits - 1
    values = random.integers(0, top, (HEIGHT, WIDTH, channels), np.uint32, endpoint=True)
    values[0, :8] = np.linspace(0, top, 8).astype(np.uint32)[:, None]
    values[1, :2] = (0,) * channels, (top,) * channels
    return values


def eight(values: Samples, bits: int) -> Samples:
    """Scaled to 0..255 by the full range, as floats; PNG third edition, 13.12."""
    scaled: Samples = values.astype(np.float64) * 255 / (2**bits - 1)
    return scaled


def grey_rgb(grey: Samples) -> Samples:
    """[...] -> [..., 3]."""
    return np.repeat(grey[..., None], 3, axis=-1)


def over_white(colour: Samples, opacity: Samples) -> Samples:
    """[..., 3] and [...] in 0..1 -> [..., 3], by the definition of `over` (PNG, 13.16)."""
    part = opacity[..., None]
    blended: Samples = colour * part + 255 * (1 - part)
    return blended


def over_white_premultiplied(colour: Samples, opacity: Samples) -> Samples:
    """The same where the colour was multiplied by its opacity before (TIFF's associated alpha)."""
    blended: Samples = colour + 255 * (1 - opacity[..., None])
    return blended


def packed(rows: Samples, bits: int, *, order: str = ">") -> list[bytes]:
    """[rows, samples] -> bytes of each row: the first sample in the high bits, padded to a byte."""
    if bits == 8:
        return [row.astype(np.uint8).tobytes() for row in rows]
    if bits >= 16:
        return [row.astype(f"{order}u{bits // 8}").tobytes() for row in rows]
    places = np.arange(bits - 1, -1, -1)
    return [
        np.packbits((row[:, None] >> places & 1).astype(np.uint8).ravel()).tobytes() for row in rows
    ]
