"""The eleven colours that have names, each with the range that its shades are drawn from.

The ranges keep clear of one another, also after the photometric jitter of training pictures.
"""

import colorsys
from dataclasses import dataclass
from random import Random

Rgb = tuple[int, int, int]
Range = tuple[float, float]


@dataclass(frozen=True)
class Colour:
    """A named colour: ranges of hue (degrees), saturation and value."""

    english: str
    chinese: str  # with 色
    hue: Range
    saturation: Range
    value: Range

    def shade(self, rng: Random) -> Rgb:
        """A random shade that anyone would call by this name."""
        hue = rng.uniform(*self.hue) % 360 / 360
        rgb = colorsys.hsv_to_rgb(hue, rng.uniform(*self.saturation), rng.uniform(*self.value))
        return round(rgb[0] * 255), round(rgb[1] * 255), round(rgb[2] * 255)

    def named(self, language: str) -> str:
        """Its name."""
        return self.chinese if language == "zh" else self.english


COLOURS = (
    Colour("red", "红色", (-8, 5), (0.82, 1.0), (0.78, 0.98)),
    Colour("orange", "橙色", (25, 33), (0.88, 1.0), (0.95, 1.0)),
    Colour("yellow", "黄色", (51, 59), (0.8, 1.0), (0.93, 1.0)),
    Colour("green", "绿色", (105, 145), (0.6, 1.0), (0.45, 0.8)),
    Colour("blue", "蓝色", (208, 234), (0.75, 1.0), (0.65, 1.0)),
    Colour("purple", "紫色", (270, 290), (0.6, 0.9), (0.45, 0.72)),
    Colour("pink", "粉色", (326, 345), (0.32, 0.52), (0.96, 1.0)),
    Colour("brown", "棕色", (18, 28), (0.65, 0.85), (0.35, 0.5)),
    Colour("black", "黑色", (0, 360), (0.0, 0.2), (0.0, 0.11)),
    Colour("white", "白色", (0, 360), (0.0, 0.03), (0.97, 1.0)),
    Colour("grey", "灰色", (0, 360), (0.0, 0.06), (0.48, 0.62)),
)


def pale(rng: Random) -> Rgb:
    """A pale tint, which has no name."""
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.1, 0.25), rng.uniform(0.85, 0.98))
    return round(rgb[0] * 255), round(rgb[1] * 255), round(rgb[2] * 255)


def distance(one: Rgb, other: Rgb) -> float:
    """How far apart two shades look, 0 to about 765 ("redmean")."""
    red = (one[0] + other[0]) / 2
    r, g, b = (a - b for a, b in zip(one, other, strict=True))
    total = (2 + red / 256) * r * r + 4 * g * g + (2 + (255 - red) / 256) * b * b
    return float(total**0.5)


def luma(rgb: Rgb) -> float:
    """How light a shade looks, 0 to 255."""
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]
