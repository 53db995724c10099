"""The parts of a scene: a background, and things, shapes and texts that show on it."""

from dataclasses import dataclass
from random import Random

from recipes.demo_model import background, strings, typeface
from recipes.demo_model.drawing import mean_colour, sprite
from recipes.demo_model.palette import COLOURS, Colour, Rgb, distance, luma
from recipes.demo_model.places import Place
from recipes.demo_model.scene import Background, Box, Effects, PlacedThing, Shape, ShapeKind, Text
from recipes.demo_model.things import Thing, things, vendors_in_training

Subject = tuple[Thing, str]  # a thing and the vendor whose drawing is wanted

CLEAR = 190.0  # how far a flat colour must be from what it stands on
VISIBLE = 100.0  # how far a drawing's mean colour must be
READABLE = 45.0  # how much lighter or darker a text must be
SMALLEST_CHARACTER = 1 / 8  # mean width: the model is given 8 x 8 rows of a picture
SMALLEST_CHINESE = 0.2
STRETCH = (0.78, 1.3)  # the aspects of training pictures


@dataclass
class Parts:
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
        if self._train:
            ratio *= rng.uniform(0.85, 1.15)
        room = area[2] - area[0], area[3] - area[1]
        largest = min(room[0] / ratio, room[1] * 0.7)
        least = SMALLEST_CHINESE if kind == "characters" else SMALLEST_CHARACTER
        smallest = min(largest, least * len(string) / ratio)
        height = rng.uniform(smallest, max(smallest, min(largest, 0.55)))
        if self._chance(0.5):
            height = (height + smallest) / 2
        width = height * ratio
        x = rng.uniform(area[0] + width / 2, area[2] - width / 2)
        y = rng.uniform(area[1] + height / 2, area[3] - height / 2)
        box = self.fitted((x, y, max(width, height)), ratio)
        return typeface.set_text(string, kind, *self.ink(), font, box)


def _vendor(rng: Random, thing: Thing) -> str:
    return rng.choice(vendors_in_training(thing))


def _apart(rgb: Rgb, ground: Background, least: float) -> bool:
    return min(distance(rgb, ground.first), distance(rgb, ground.second)) >= least
