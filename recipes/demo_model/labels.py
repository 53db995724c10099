"""Dense labels: what covers each of the 16x16 cells of a picture, in which colour, and where."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recipes.demo_model.drawing import stencil
from recipes.demo_model.palette import COLOURS
from recipes.demo_model.scene import Box, PlacedThing, Point, Scene, Shape, middle
from recipes.demo_model.shapes import SHAPES
from recipes.demo_model.strings import CHARACTERS, DIGITS, LETTERS
from recipes.demo_model.things import things

GRID = 16
UNKNOWN = -1  # a colour that has no name: a drawing's, a pattern's
KINDS = (
    "background",
    *(thing.english for thing in things()),
    *(shape.english for shape in SHAPES),
    *LETTERS,
    *DIGITS,
    *CHARACTERS,
    "bar",
)
NUMBERS = {name: number for number, name in enumerate(KINDS)}
_COLOUR_NUMBERS = {colour.english: number for number, colour in enumerate(COLOURS)}

_FINE = 4  # stencils are drawn with so many pixels a cell
_ENOUGH = 0.3  # how much of a cell a thing or a shape has to cover
_TOUCHED = 0.02
_ENOUGH_OF_TEXT = 0.25

Cover = NDArray[np.floating]  # [GRID, GRID], 0 to 1


@dataclass(frozen=True)
class CellLabels:
    """Of each cell, row by row: [256] each."""

    kinds: NDArray[np.int16]  # the number in KINDS
    colours: NDArray[np.int8]  # the number in COLOURS, or UNKNOWN
    anchors: NDArray[np.int8]  # 1 where something has its middle, or a bar its top; else 0

    def stacked(self) -> NDArray[np.int16]:
        """[256, 3]: kind, colour, anchor."""
        return np.stack((self.kinds, self.colours, self.anchors), axis=-1)


def cell_labels(scene: Scene) -> CellLabels:
    """The labels of a scene's picture."""
    cells = _Cells(scene)
    for thing in scene.things:
        cells.put(_stencilled(thing), thing.thing.english, None, _ENOUGH)
        cells.anchor(middle(thing.box), thing.thing.english, None)
    for shape in scene.shapes:
        cells.put(_stencilled(shape), shape.kind.english, shape.colour.english, _ENOUGH)
        cells.anchor(middle(shape.box), shape.kind.english, shape.colour.english)
    for bar in scene.bars:
        cells.put(_boxed(bar.box), "bar", bar.colour.english, _ENOUGH)
        cells.anchor(bar.top, "bar", bar.colour.english)
    for text in [*scene.texts, *(bar.label for bar in scene.bars)]:
        for character, box in zip(text.string, text.boxes, strict=True):
            cells.put(_boxed(box), character, text.colour.english, _ENOUGH_OF_TEXT)
            cells.anchor(middle(box), character, text.colour.english)
    return CellLabels(cells.kinds.reshape(-1), cells.colours.reshape(-1), cells.anchors.reshape(-1))


class _Cells:
    def __init__(self, scene: Scene) -> None:
        ground = scene.background.colour
        number = _COLOUR_NUMBERS[ground.english] if ground else UNKNOWN
        self.kinds = np.zeros((GRID, GRID), np.int16)
        self.colours = np.full((GRID, GRID), number, np.int8)
        self.anchors = np.zeros((GRID, GRID), np.int8)
        self._best = np.zeros((GRID, GRID), np.float32)

    def put(self, cover: Cover, kind: str, colour: str | None, enough: float) -> None:
        """Label the cells that are covered more by this than by anything before."""
        enough = min(enough, float(cover.max()))
        won = (cover >= enough) & (cover > self._best)
        self.colours[(cover > _TOUCHED) & (self._best == 0)] = UNKNOWN
        self._best = np.maximum(self._best, cover)
        self.kinds[won] = NUMBERS[kind]
        self.colours[won] = _COLOUR_NUMBERS[colour] if colour else UNKNOWN

    def anchor(self, at: Point, kind: str, colour: str | None) -> None:
        """Say where something is counted; that cell shows it, whatever covers it."""
        x, y = (min(max(int(part * GRID), 0), GRID - 1) for part in at)
        self.anchors[y, x] = 1
        self.kinds[y, x] = NUMBERS[kind]
        self.colours[y, x] = _COLOUR_NUMBERS[colour] if colour else UNKNOWN


def _stencilled(placed: PlacedThing | Shape) -> Cover:
    canvas = Image.new("L", (GRID * _FINE, GRID * _FINE))
    mask, at = stencil(placed, canvas)
    canvas.paste(255, (*at, at[0] + mask.width, at[1] + mask.height), mask)
    return np.asarray(canvas.reduce(_FINE), dtype=np.float32) / 255


def _boxed(box: Box) -> Cover:
    starts = np.arange(GRID, dtype=np.float32)
    across, down = (
        np.clip(np.minimum(end * GRID, starts + 1) - np.maximum(start * GRID, starts), 0, 1)
        for start, end in ((box[0], box[2]), (box[1], box[3]))
    )
    return np.outer(down, across)
