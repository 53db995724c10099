"""Backgrounds: families of two colours mixed by a mask.

Training sees plain colours, gradients, stripes, checks and blobs. Dots, rings and zigzags are held
out for evaluation.
"""

from collections.abc import Callable
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recipes.demo_model.palette import COLOURS, Colour, Rgb, distance, pale
from recipes.demo_model.scene import Background

Mask = NDArray[np.float32]

TRAINING = ("plain", "plain", "plain", "gradient", "stripes", "checks", "blobs")
HELD_OUT = ("plain", "dots", "rings", "zigzag")
MILD = 170  # how far the two colours of a pattern may be apart


def background(rng: Random, split: str, family: str = "") -> Background:
    """A random one."""
    family = family or rng.choice(HELD_OUT if split == "held_out" else TRAINING)
    colour, first = _colour(rng)
    second = first if family == "plain" else _mild_partner(rng, first)
    return Background(
        family,
        first,
        second,
        colour if family == "plain" else None,
        rng.uniform(0.7, 1.6),
        rng.uniform(0, 360),
        rng.getrandbits(32),
    )


def _colour(rng: Random) -> tuple[Colour | None, Rgb]:
    if rng.random() < 0.4:
        return None, pale(rng)
    weights = [2 if colour.english == "white" else 1 for colour in COLOURS]
    colour = rng.choices(COLOURS, weights)[0]
    return colour, colour.shade(rng)


def _mild_partner(rng: Random, first: Rgb) -> Rgb:
    while True:
        _, second = _colour(rng)
        if 35 < distance(first, second) < MILD:
            return second


def draw(background: Background, width: int, height: int) -> Image.Image:
    """Draw it, RGB."""
    picture = Image.new("RGB", (width, height), background.first)
    if background.family != "plain":
        x, y = _rotated(background, width, height)
        mask = _MASKS[background.family](background, x, y)
        levels = (np.clip(mask, 0, 1) * 255).astype(np.uint8)
        second = Image.new("RGB", (width, height), background.second)
        picture.paste(second, mask=Image.fromarray(levels).resize((width, height)))
    return picture


def _rotated(background: Background, width: int, height: int) -> tuple[Mask, Mask]:
    turn = np.deg2rad(background.angle)
    x = np.linspace(0, 1, width, dtype=np.float32)[None, :] - 0.5
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None] - 0.5
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    return x * c + y * s, y * c - x * s


def _wave(at: Mask) -> Mask:
    """A triangle wave of period 1, -1 to 1."""
    mask: Mask = 4 * np.abs(at - np.floor(at) - np.float32(0.5)) - 1
    return mask


def _gradient(background: Background, x: Mask, y: Mask) -> Mask:
    mask: Mask = x + np.float32(0.5)
    return mask


def _stripes(background: Background, x: Mask, y: Mask) -> Mask:
    mask: Mask = _wave(x * np.float32(5 * background.scale)) * 10 + np.float32(0.5)
    return mask


def _checks(background: Background, x: Mask, y: Mask) -> Mask:
    n = np.float32(4 * background.scale)
    mask: Mask = _wave(x * n) * _wave(y * n) * 40 + np.float32(0.5)
    return mask


def _blobs(background: Background, x: Mask, y: Mask) -> Mask:
    n = 3 + background.seed % 12
    grid = np.random.default_rng(background.seed).random((n, n), np.float32)
    levels = Image.fromarray((grid * 255).astype(np.uint8))
    smooth = levels.resize((x.shape[1], x.shape[0]), Image.Resampling.BICUBIC)
    mask: Mask = np.asarray(smooth, dtype=np.float32) / np.float32(255)
    return mask


def _dots(background: Background, x: Mask, y: Mask) -> Mask:
    n = np.float32(5 * background.scale)
    u, v = _wave(x * n) + 1, _wave(y * n) + 1
    radius: Mask = np.sqrt(u * u + v * v)
    mask: Mask = (np.float32(0.5) - radius + np.float32(0.4)) * 10
    return mask


def _rings(background: Background, x: Mask, y: Mask) -> Mask:
    mask: Mask = _wave(np.hypot(x, y) * np.float32(4 * background.scale)) / np.float32(2)
    mask += np.float32(0.5)
    return mask


def _zigzag(background: Background, x: Mask, y: Mask) -> Mask:
    n = np.float32(5 * background.scale)
    mask: Mask = _wave(x * n + _wave(y * n) / np.float32(4)) * 10 + np.float32(0.5)
    return mask


_MASKS: dict[str, Callable[[Background, Mask, Mask], Mask]] = {
    "gradient": _gradient,
    "stripes": _stripes,
    "checks": _checks,
    "blobs": _blobs,
    "dots": _dots,
    "rings": _rings,
    "zigzag": _zigzag,
}
