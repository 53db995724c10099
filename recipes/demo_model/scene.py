"""What is in a picture, in relative coordinates, so that it can be drawn at any size.

A box is (left, top, right, bottom), 0 to 1 of the picture. `aspect` is the width to height that the
picture was meant for: drawn square, as for training, all of it is stretched; drawn at that aspect,
nothing is.
"""

from dataclasses import dataclass, field

from recipes.demo_model.palette import Colour, Rgb
from recipes.demo_model.things import Thing

Box = tuple[float, float, float, float]
Point = tuple[float, float]  # x and y


def middle(box: Box) -> Point:
    """Of a box."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


@dataclass(frozen=True)
class Background:
    """A family, its two colours, and the numbers that the family needs."""

    family: str
    first: Rgb
    second: Rgb
    colour: Colour | None  # its name, where it is of one colour that has a name
    scale: float = 1.0
    angle: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class PlacedThing:
    """A vendor's drawing of a thing."""

    thing: Thing
    vendor: str
    box: Box
    angle: float = 0.0
    mirrored: bool = False


@dataclass(frozen=True)
class ShapeKind:
    """A shape that has a name."""

    name: str
    english: str
    plural: str
    chinese: str
    measure_word: str = "个"


@dataclass(frozen=True)
class Shape:
    """A plain shape filled with one colour."""

    kind: ShapeKind
    colour: Colour
    rgb: Rgb
    box: Box
    angle: float = 0.0


@dataclass(frozen=True)
class Text:
    """A string in one colour; `boxes` has one box for each character."""

    string: str
    kind: str  # "number", "word" or "characters"
    colour: Colour
    rgb: Rgb
    font: str
    boxes: tuple[Box, ...]

    @property
    def box(self) -> Box:
        """The box around all characters."""
        return self.boxes[0][0], self.boxes[0][1], self.boxes[-1][2], self.boxes[-1][3]


@dataclass(frozen=True)
class Bar:
    """A bar of a chart, with the letter below it."""

    letter: str
    colour: Colour
    rgb: Rgb
    box: Box
    label: Text

    @property
    def height(self) -> float:
        """How tall it is."""
        return self.box[3] - self.box[1]

    @property
    def top(self) -> Point:
        """The middle of its upper edge."""
        left, top, right, _ = self.box
        return (left + right) / 2, top


@dataclass(frozen=True)
class Effects:
    """What a camera would add: factors of brightness and contrast, blur (1 = a 224th), noise."""

    brightness: float = 1.0
    contrast: float = 1.0
    blur: float = 0.0
    noise: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Scene:
    """A picture: its kind, its background, and what stands on it, in the order it is read."""

    kind: str
    background: Background
    things: tuple[PlacedThing, ...] = ()
    shapes: tuple[Shape, ...] = ()
    texts: tuple[Text, ...] = ()
    bars: tuple[Bar, ...] = ()
    layout: str = ""  # "row", "column", "corners", or "" where places say nothing
    aspect: float = 1.0
    effects: Effects = field(default_factory=Effects)
