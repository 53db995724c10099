"""Composes random scenes.

Two splits. "train" is what training sees, with mild stretching, blur, noise and jitter of
brightness. "held_out" is for evaluation: other backgrounds, numbers and words never shown, another
Latin typeface, another weight of the Chinese one, no stretching, no noise. Which vendor's drawings
training sees is said in `things.py`; an evaluation asks for others by naming its subject.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from deploy.demo_model import background, strings, typeface
from deploy.demo_model.drawing import mean_colour, sprite
from deploy.demo_model.palette import COLOURS, Colour, Rgb, distance, luma
from deploy.demo_model.scene import (
    Background,
    Bar,
    Box,
    Effects,
    PlacedThing,
    Scene,
    Shape,
    ShapeKind,
    Text,
)
from deploy.demo_model.shapes import SHAPES
from deploy.demo_model.things import Thing, things, vendors_in_training

Subject = tuple[Thing, str]  # a thing and the vendor whose drawing is wanted
Place = tuple[float, float, float]  # where the middle is, and the longer side

CLEAR = 190.0  # how far a flat colour must be from what it stands on
VISIBLE = 100.0  # how far a drawing's mean colour must be
READABLE = 45.0  # how much lighter or darker a text must be
SMALLEST_TEXT = 0.13  # height of a character's box
STRETCH = (0.78, 1.3)  # the aspects of training pictures
OFTEN = {"google": 3, "twitter": 3}  # how often a vendor's drawings are shown; others 1


def compose(
    rng: Random, split: str, kind: str, subject: Subject | None = None, aspect: float = 0.0
) -> Scene:
    """A random scene of a kind; `subject` is in it where the kind shows things.

    `aspect` is the width to height that it will be drawn at; left out, it is 1, in training now and
    then something else, as pictures that are not square are squeezed into one.
    """
    composer = Composer(rng, split, subject, aspect)
    scene = _KINDS[kind](composer)
    return replace(scene, kind=kind, aspect=composer.aspect, effects=composer.effects())


@dataclass
class Composer:
    """Makes the parts of one scene."""

    rng: Random
    split: str
    subject: Subject | None = None
    aspect: float = 0.0

    def __post_init__(self) -> None:
        if not self.aspect:
            self.aspect = self.rng.uniform(*STRETCH) if self._train and self._chance(0.5) else 1.0
        self.ground = background.background(self.rng, self.split)

    @property
    def _train(self) -> bool:
        return self.split == "train"

    def _chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def effects(self) -> Effects:
        """Blur, noise and brightness, in training only."""
        if not self._train or self._chance(0.4):
            return Effects()
        rng = self.rng
        return Effects(
            brightness=rng.uniform(0.93, 1.06),
            contrast=rng.uniform(0.9, 1.05),
            blur=rng.uniform(0.3, 1.0) if self._chance(0.3) else 0.0,
            noise=rng.uniform(2, 7) if self._chance(0.25) else 0.0,
            seed=rng.getrandbits(16),
        )

    def fitted(self, place: Place, ratio: float = 1.0) -> Box:
        """The box of something with that width to height, at a place, for the aspect."""
        x, y, side = place
        wide = side * min(1.0, ratio) * min(1.0, 1 / self.aspect)
        tall = side * min(1.0, 1 / ratio) * min(1.0, self.aspect)
        return x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2

    def subjects(self, count: int) -> list[Subject]:
        """Different things, the wanted one among them, that show on the background."""
        chosen = [self.subject] if self.subject else []
        while len(chosen) < count:
            thing = self.rng.choice(things())
            if all(thing != other for other, _ in chosen):
                chosen.append((thing, _vendor(self.rng, thing)))
        self.rng.shuffle(chosen)
        colours = [mean_colour(vendor, thing.code_point) for thing, vendor in chosen]
        for _ in range(20):
            if all(_apart(colour, self.ground, VISIBLE) for colour in colours):
                break
            self.ground = background.background(self.rng, self.split)
        return chosen

    def place(self, subject: Subject, place: Place) -> PlacedThing:
        """A thing at a place, turned a little, mirrored half of the time."""
        thing, vendor = subject
        image = sprite(vendor, thing.code_point)
        turned = self._train and self._chance(0.5)
        angle = self.rng.uniform(-14, 14) if turned else 0.0
        box = self.fitted(place, image.width / image.height)
        return PlacedThing(thing, vendor, box, angle, self._train and self._chance(0.4))

    def paint(self, *others: Colour) -> tuple[Colour, Rgb]:
        """A named colour that shows on the background, other than `others`."""
        while True:
            colour = self.rng.choice(COLOURS)
            rgb = colour.shade(self.rng)
            if colour not in others and _apart(rgb, self.ground, CLEAR):
                return colour, rgb

    def ink(self) -> tuple[Colour, Rgb]:
        """A named colour that can be read on the background."""
        while True:
            colour, rgb = self.paint()
            grounds = (self.ground.first, self.ground.second)
            if min(abs(luma(rgb) - luma(ground)) for ground in grounds) > READABLE:
                return colour, rgb

    def shape(self, kind: ShapeKind, paint: tuple[Colour, Rgb], place: Place) -> Shape:
        """A shape at a place."""
        angle = self.rng.uniform(-10, 10) if self._chance(0.3) else 0.0
        return Shape(kind, *paint, self.fitted(place), angle)

    def text(self, kind: str, area: Box = (0.04, 0.04, 0.96, 0.96)) -> Text:
        """A number, a word or characters somewhere in an area."""
        rng = self.rng
        drawers = {
            "number": strings.number,
            "word": strings.word,
            "characters": strings.characters,
        }
        string, font = drawers[kind](rng, self.split), typeface.choose(rng, self.split, kind)
        ratio = typeface.width_of(string, font)
        room = area[2] - area[0], area[3] - area[1]
        largest = min(room[0] / ratio, room[1] * 0.7)
        smallest = min(largest, SMALLEST_TEXT if kind != "characters" else 0.16)
        height = rng.uniform(smallest, max(smallest, min(largest, 0.55)))
        if self._chance(0.5):
            height = (height + smallest) / 2
        width = height * ratio
        x = rng.uniform(area[0] + width / 2, area[2] - width / 2)
        y = rng.uniform(area[1] + height / 2, area[3] - height / 2)
        box = self.fitted((x, y, max(width, height)), ratio)
        return typeface.set_text(string, kind, *self.ink(), font, box)


def _vendor(rng: Random, thing: Thing) -> str:
    vendors = vendors_in_training(thing)
    return rng.choices(vendors, [OFTEN.get(vendor, 1) for vendor in vendors])[0]


def _apart(rgb: Rgb, ground: Background, least: float) -> bool:
    return min(distance(rgb, ground.first), distance(rgb, ground.second)) >= least


def _single_place(rng: Random) -> Place:
    """In the centre, clearly at one side, or anywhere."""
    where = rng.random()
    if where < 0.4:
        return rng.uniform(0.45, 0.55), rng.uniform(0.45, 0.55), rng.uniform(0.4, 0.85)
    if where < 0.8:
        side = rng.uniform(0.3, 0.42)
        along, across = rng.uniform(side / 2 + 0.02, 0.26), rng.uniform(0.42, 0.58)
        along = along if rng.random() < 0.5 else 1 - along
        return (along, across, side) if rng.random() < 0.5 else (across, along, side)
    side = rng.uniform(0.35, 0.7)
    return rng.uniform(side / 2, 1 - side / 2), rng.uniform(side / 2, 1 - side / 2), side


def _row(rng: Random, count: int) -> list[Place]:
    """Places from left to right."""
    room = 1 / count
    level = rng.uniform(0.4, 0.6)
    places = []
    for i in range(count):
        side = rng.uniform(0.68, 0.94) * room
        x = (i + 0.5) * room + rng.uniform(-1, 1) * (room - side) / 2
        places.append((x, level + rng.uniform(-0.08, 0.08), side))
    return places


def _line(rng: Random, count: int) -> tuple[str, list[Place]]:
    """Places in a row or a column, and which."""
    places = _row(rng, count)
    if rng.random() < 0.5:
        return "row", places
    return "column", [(y, x, side) for x, y, side in places]


def _grid(rng: Random, count: int) -> list[Place]:
    """Random places that do not overlap."""
    n = 2 if count <= 4 and rng.random() < 0.4 else 3
    room = 1 / n
    side = rng.uniform(0.62, 0.92) * room
    places = []
    for cell in rng.sample(range(n * n), count):
        slack = (room - side) / 2
        x = (cell % n + 0.5) * room + rng.uniform(-slack, slack)
        y = (cell // n + 0.5) * room + rng.uniform(-slack, slack)
        places.append((x, y, side * rng.uniform(0.88, 1)))
    return places


def _one_thing(composer: Composer) -> Scene:
    (subject,) = composer.subjects(1)
    thing = composer.place(subject, _single_place(composer.rng))
    return Scene("", composer.ground, (thing,), layout="single")


def _placed(
    composer: Composer, subjects: Sequence[Subject], layout: str, places: list[Place]
) -> Scene:
    pairs = zip(subjects, places, strict=True)
    placed = tuple(composer.place(subject, place) for subject, place in pairs)
    return Scene("", composer.ground, placed, layout=layout)


def _two_things(composer: Composer) -> Scene:
    return _placed(composer, composer.subjects(2), *_line(composer.rng, 2))


def _some_things(composer: Composer) -> Scene:
    if composer.rng.random() < 0.5:
        return _placed(composer, composer.subjects(3), *_line(composer.rng, 3))
    corners = [
        (x + composer.rng.uniform(-0.03, 0.03), y + composer.rng.uniform(-0.03, 0.03), 0.4)
        for y in (0.26, 0.74)
        for x in (0.26, 0.74)
    ]
    return _placed(composer, composer.subjects(4), "corners", corners)


def _counts(rng: Random) -> tuple[int, int]:
    """How many of one kind, 1 to 6, and of another, 0 to 3, but never as many."""
    first = rng.choices((1, 2, 3, 4, 5, 6), (1, 2, 2, 2, 2, 2))[0]
    second = rng.choice([count for count in (1, 2, 3) if count != first])
    return first, (second if rng.random() < 0.35 else 0)


def _many_things(composer: Composer) -> Scene:
    first, second = _counts(composer.rng)
    subjects = composer.subjects(2 if second else 1)
    if composer.subject and subjects[0] != composer.subject:
        subjects.reverse()
    kinds = [subjects[0]] * first + [subjects[-1]] * second
    return _placed(composer, kinds, "", _grid(composer.rng, first + second))


def _shapes(composer: Composer) -> Scene:
    rng = composer.rng
    count = rng.choice((1, 1, 2, 2, 3))
    layout, places = _line(rng, count) if count > 1 else ("single", [_single_place(rng)])
    kinds = rng.sample(SHAPES, count)
    placed: list[Shape] = []
    for kind, place in zip(kinds, places, strict=True):
        placed.append(composer.shape(kind, composer.paint(*(s.colour for s in placed)), place))
    return Scene("", composer.ground, shapes=tuple(placed), layout=layout)


def _many_shapes(composer: Composer) -> Scene:
    first, second = _counts(composer.rng)
    kinds = composer.rng.sample(SHAPES, 2)
    if composer.rng.random() < 0.25:
        kinds[1] = kinds[0]
    paint = composer.paint()
    paints = paint, composer.paint(paint[0])
    which = [0] * first + [1] * second
    places = _grid(composer.rng, len(which))
    placed = (
        composer.shape(kinds[i], paints[i], place) for i, place in zip(which, places, strict=True)
    )
    return Scene("", composer.ground, shapes=tuple(placed))


def _text_alone(kind: str) -> Callable[[Composer], Scene]:
    return lambda composer: Scene("", composer.ground, texts=(composer.text(kind),))


def _text_with_thing(composer: Composer) -> Scene:
    (subject,) = composer.subjects(1)
    rng = composer.rng
    above = rng.random() < 0.5
    area = (0.04, 0.03, 0.96, 0.4) if above else (0.04, 0.6, 0.96, 0.97)
    text = composer.text(rng.choice(("number", "word", "characters")), area)
    side = rng.uniform(0.38, 0.54)
    y = 0.42 + side / 2 if above else 0.58 - side / 2
    thing = composer.place(subject, (rng.uniform(0.3, 0.7), y, side))
    return Scene(
        "", composer.ground, (thing,), texts=(text,), layout="text above" if above else "text below"
    )


def _chart(composer: Composer) -> Scene:
    rng = composer.rng
    count = rng.choice((3, 4, 5))
    tallest = rng.uniform(0.5, 0.74)
    heights = [tallest * rng.uniform(0.18, 0.86) for _ in range(count)]
    heights[rng.randrange(count)] = tallest
    room = rng.uniform(0.86, 0.96) / count
    left, foot = 0.5 - room * count / 2, rng.uniform(0.8, 0.85)
    wide = room * rng.uniform(0.55, 0.85)
    font = typeface.choose(rng, composer.split, "word")
    ink = composer.ink()
    bars: list[Bar] = []
    for i, height in enumerate(heights):
        x = left + (i + 0.5) * room
        paint = composer.paint(*(bar.colour for bar in bars))
        tall, letter = 0.13, strings.LETTERS[i]
        half = typeface.width_of(letter, font) * tall / 2
        place = (x - half, foot + 0.01, x + half, foot + 0.01 + tall)
        label = typeface.set_text(letter, "word", *ink, font, place)
        bars.append(Bar(letter, *paint, (x - wide / 2, foot - height, x + wide / 2, foot), label))
    return Scene("", composer.ground, bars=tuple(bars))


def _blank(composer: Composer) -> Scene:
    return Scene("", composer.ground)


_KINDS: dict[str, Callable[[Composer], Scene]] = {
    "one thing": _one_thing,
    "two things": _two_things,
    "some things": _some_things,
    "many things": _many_things,
    "shapes": _shapes,
    "many shapes": _many_shapes,
    "number": _text_alone("number"),
    "word": _text_alone("word"),
    "characters": _text_alone("characters"),
    "text with thing": _text_with_thing,
    "chart": _chart,
    "blank": _blank,
}
KINDS = tuple(_KINDS)
