"""What can be spoken of: things, shapes, texts and bars, as nouns of either language."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from recipes.demo_model.palette import Colour
from recipes.demo_model.scene import Bar, Box, Point, Scene, middle


class Named(Protocol):
    """A thing or a kind of shape."""

    @property
    def english(self) -> str: ...
    @property
    def plural(self) -> str: ...
    @property
    def chinese(self) -> str: ...
    @property
    def measure_word(self) -> str: ...


@dataclass(frozen=True)
class Noun:
    """A name, with a colour where that is part of it."""

    english: str
    plural: str
    chinese: str
    measure_word: str = "个"
    colour: Colour | None = None

    @classmethod
    def of(cls, named: Named, colour: Colour | None = None) -> "Noun":
        """The noun for a thing or a shape."""
        return cls(named.english, named.plural, named.chinese, named.measure_word, colour)

    def plain(self) -> "Noun":
        """Without its colour."""
        return Noun(self.english, self.plural, self.chinese, self.measure_word)

    def bare(self, language: str) -> str:
        """ "red dog", "红色的狗"."""
        colour = self.colour.named(language) if self.colour else ""
        if language == "zh":
            return f"{colour}的{self.chinese}" if colour else self.chinese
        noun = self.english.removeprefix("a ").removeprefix("an ")
        return f"{colour} {noun}" if colour else noun

    def one(self, language: str) -> str:
        """ "a red dog", "红色的狗"."""
        bare = self.bare(language)
        if language == "zh" or not self.english.startswith(("a ", "an ")):
            return bare
        if self.colour is None:
            return self.english
        return f"{'an' if bare[0] in 'aeiou' else 'a'} {bare}"

    def many(self, language: str) -> str:
        """ "red dogs", "红色的狗"."""
        if language == "zh":
            return self.bare(language)
        return f"{self.colour.named(language)} {self.plural}" if self.colour else self.plural

    def counted(self, count: int, language: str) -> str:
        """ "a dog", "3 dogs", "3只狗"."""
        if count == 1:
            return self.one(language)
        unit = self.measure_word if language == "zh" else " "
        return f"{count}{unit}{self.many(language)}"

    def slots(self, language: str) -> Mapping[str, str]:
        """What fills the slots of a question about it."""
        plural = not self.english.startswith(("a ", "an ", "the ")) and self.english.endswith("s")
        bare = self.bare(language)
        has_name = language == "zh" or bare.startswith(("the ", "bar "))
        return {
            "a": self.one(language),
            "the": bare if has_name else f"the {bare}",
            "many": self.many(language),
            "be": "are" if plural else "is",
            "Be": "Are" if plural else "Is",
            "it": "they" if plural else "it",
            "unit": self.measure_word,
        }


@dataclass(frozen=True)
class Item:
    """Something in a scene that has a noun and a place."""

    noun: Noun
    box: Box
    is_thing: bool


THING = Noun("a thing", "things", "东西")
SHAPE = Noun("a shape", "shapes", "图形")
BAR = Noun("a bar", "bars", "柱子")
BACKGROUND = Noun("the background", "backgrounds", "背景")
TEXTS = {
    "number": Noun("the number", "numbers", "数字"),
    "word": Noun("the word", "words", "单词"),
    "characters": Noun("the characters", "characters", "汉字"),
}


def items(scene: Scene) -> list[Item]:
    """The things and shapes of a scene, in reading order."""
    placed = [Item(Noun.of(each.thing), each.box, True) for each in scene.things]
    for shape in scene.shapes:
        placed.append(Item(Noun.of(shape.kind, shape.colour), shape.box, False))
    return placed


def bar_noun(bar: Bar) -> Noun:
    """ "bar A", "柱子A"."""
    return Noun(f"bar {bar.letter}", "bars", f"柱子{bar.letter}")


def middles(scene: Scene, noun: Noun) -> tuple[Point, ...] | None:
    """Where all that a noun speaks of has its middle; None where that is no place of the picture.

    Nothing that is absent has one, a text has one for each character, a bar its top.
    """
    found = [
        *((THING, middle(item.box)) for item in items(scene)),
        *((SHAPE, middle(shape.box)) for shape in scene.shapes),
        *((TEXTS[text.kind], middle(box)) for text in scene.texts for box in text.boxes),
        *((BAR, bar.top) for bar in scene.bars),
    ]
    known = {each for each, _ in found}
    if noun in known:
        return tuple(point for each, point in found if each == noun)
    if noun in (THING, BACKGROUND):
        return None
    bars = [bar.top for bar in scene.bars if bar_noun(bar) == noun]
    named = [i.box for i in items(scene) if noun in (i.noun, i.noun.plain())]
    return (*bars, *map(middle, named))


def counts(scene: Scene) -> dict[Noun, int]:
    """How many there are of each noun, the most numerous first, else in reading order."""
    found: dict[Noun, int] = {}
    for item in items(scene):
        found[item.noun] = found.get(item.noun, 0) + 1
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))
