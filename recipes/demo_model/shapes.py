"""The plain shapes that have names, and their masks."""

from functools import cache
from math import cos, pi, sin

from PIL import Image, ImageDraw

from recipes.demo_model.scene import ShapeKind

SHAPES = (
    ShapeKind("circle", "a circle", "circles", "圆形"),
    ShapeKind("square", "a square", "squares", "正方形"),
    ShapeKind("triangle", "a triangle", "triangles", "三角形"),
    ShapeKind("star", "a star", "stars", "五角星"),
    ShapeKind("heart", "a heart", "hearts", "心形"),
    ShapeKind("diamond", "a diamond", "diamonds", "菱形"),
    ShapeKind("cross", "a cross", "crosses", "十字形"),
)

_SIDE = 256
_POLYGONS = {
    "square": ((0, 0), (1, 0), (1, 1), (0, 1)),
    "triangle": ((0.5, 0.02), (1, 0.98), (0, 0.98)),
    "diamond": ((0.5, 0), (0.84, 0.5), (0.5, 1), (0.16, 0.5)),
    "cross": (
        *((0.34, 0), (0.66, 0), (0.66, 0.34), (1, 0.34), (1, 0.66), (0.66, 0.66)),
        *((0.66, 1), (0.34, 1), (0.34, 0.66), (0, 0.66), (0, 0.34), (0.34, 0.34)),
    ),
    "star": tuple(
        (
            0.5 + (0.5 if i % 2 == 0 else 0.21) * sin(i * pi / 5),
            0.53 - (0.53 if i % 2 == 0 else 0.22) * cos(i * pi / 5),
        )
        for i in range(10)
    ),
    "heart": tuple(
        (
            0.5 + sin(t) ** 3 / 2,
            0.43 - (13 * cos(t) - 5 * cos(2 * t) - 2 * cos(3 * t) - cos(4 * t)) / 29,
        )
        for t in (2 * pi * i / 60 for i in range(60))
    ),
}


@cache
def mask(name: str) -> Image.Image:
    """A shape's mask, white on black."""
    image = Image.new("L", (4 * _SIDE, 4 * _SIDE))
    pen = ImageDraw.Draw(image)
    if name == "circle":
        pen.ellipse((0, 0, 4 * _SIDE - 1, 4 * _SIDE - 1), 255)
    else:
        pen.polygon([(4 * _SIDE * x, 4 * _SIDE * y) for x, y in _POLYGONS[name]], 255)
    return image.reduce(4)
