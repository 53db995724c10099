"""Composes random scenes.

Two splits. "train" is what training sees, with mild stretching, blur, noise and jitter of
brightness. "held_out" is for evaluation: other backgrounds, numbers and words never shown, another
Latin typeface, another weight of the Chinese one, no stretching, no noise. Which vendor's drawings
training sees is said in `things.py`; an evaluation asks for others by naming its subject.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from recipes.demo_model import strings, typeface
from recipes.demo_model.parts import Parts, Subject
from recipes.demo_model.places import Place, corners, grid, line, single_place
from recipes.demo_model.scene import Bar, Scene, Shape
from recipes.demo_model.shapes import SHAPES

_TWO_KINDS = {"train": 0.65, "held_out": 0.35}


def compose(
    rng: Random, split: str, kind: str, subject: Subject | None = None, aspect: float = 0.0
) -> Scene:
    """A random scene of a kind; `subject` is in it where the kind shows things.

    `aspect` is the width to height that it will be drawn at; left out, it is 1, in training now and
    then something else, as pictures that are not square are squeezed into one.
    """
    parts = Parts(rng, split, subject, aspect)
    scene = _KINDS[kind](parts)
    return replace(scene, kind=kind, aspect=parts.aspect, effects=parts.effects())


def _one_thing(parts: Parts) -> Scene:
    (subject,) = parts.subjects(1)
    thing = parts.place(subject, single_place(parts.rng))
    return Scene("", parts.ground, (thing,), layout="single")


def _placed(parts: Parts, subjects: Sequence[Subject], layout: str, places: list[Place]) -> Scene:
    pairs = zip(subjects, places, strict=True)
    placed = tuple(parts.place(subject, place) for subject, place in pairs)
    return Scene("", parts.ground, placed, layout=layout)


def _two_things(parts: Parts) -> Scene:
    return _placed(parts, parts.subjects(2), *line(parts.rng, 2))


def _some_things(parts: Parts) -> Scene:
    if parts.rng.random() < 0.5:
        return _placed(parts, parts.subjects(3), *line(parts.rng, 3))
    places = corners(parts.rng)
    return _placed(parts, parts.subjects(4), "corners", places)


def _counts(rng: Random, split: str) -> tuple[int, int]:
    """How many of one kind, 1 to 6, and of another, 0 to 3, but never as many.

    Training sees two kinds more often than an evaluation does: they are harder.
    """
    first = rng.choices((1, 2, 3, 4, 5, 6), (1, 2, 2, 2, 2, 2))[0]
    second = rng.choice([count for count in (1, 2, 3) if count != first])
    return first, (second if rng.random() < _TWO_KINDS[split] else 0)


def _many_things(parts: Parts) -> Scene:
    first, second = _counts(parts.rng, parts.split)
    subjects = parts.subjects(2 if second else 1)
    if parts.subject and subjects[0] != parts.subject:
        subjects.reverse()
    kinds = [subjects[0]] * first + [subjects[-1]] * second
    return _placed(parts, kinds, "", grid(parts.rng, first + second))


def _shapes(parts: Parts) -> Scene:
    rng = parts.rng
    count = rng.choice((1, 1, 2, 2, 3))
    layout, places = line(rng, count) if count > 1 else ("single", [single_place(rng)])
    kinds = rng.sample(SHAPES, count)
    placed: list[Shape] = []
    for kind, place in zip(kinds, places, strict=True):
        placed.append(parts.shape(kind, parts.paint(*(s.colour for s in placed)), place))
    return Scene("", parts.ground, shapes=tuple(placed), layout=layout)


def _many_shapes(parts: Parts) -> Scene:
    first, second = _counts(parts.rng, parts.split)
    kinds = parts.rng.sample(SHAPES, 2)
    if parts.rng.random() < 0.25:
        kinds[1] = kinds[0]
    paint = parts.paint()
    paints = paint, parts.paint(paint[0])
    which = [0] * first + [1] * second
    places = grid(parts.rng, len(which))
    placed = (
        parts.shape(kinds[i], paints[i], place) for i, place in zip(which, places, strict=True)
    )
    return Scene("", parts.ground, shapes=tuple(placed))


def _text_alone(kind: str) -> Callable[[Parts], Scene]:
    return lambda parts: Scene("", parts.ground, texts=(parts.text(kind),))


def _text_with_thing(parts: Parts) -> Scene:
    (subject,) = parts.subjects(1)
    rng = parts.rng
    above = rng.random() < 0.5
    area = (0.04, 0.03, 0.96, 0.4) if above else (0.04, 0.6, 0.96, 0.97)
    text = parts.text(rng.choice(("number", "word", "characters")), area)
    side = rng.uniform(0.38, 0.54)
    y = 0.42 + side / 2 if above else 0.58 - side / 2
    thing = parts.place(subject, (rng.uniform(0.3, 0.7), y, side))
    return Scene(
        "", parts.ground, (thing,), texts=(text,), layout="text above" if above else "text below"
    )


def _chart(parts: Parts) -> Scene:
    rng = parts.rng
    count = rng.choice((3, 4, 5))
    tallest = rng.uniform(0.5, 0.74)
    heights = [tallest * rng.uniform(0.18, 0.86) for _ in range(count)]
    heights[rng.randrange(count)] = tallest
    room = rng.uniform(0.86, 0.96) / count
    left, foot = 0.5 - room * count / 2, rng.uniform(0.8, 0.85)
    wide = room * rng.uniform(0.55, 0.85)
    font = typeface.choose(rng, parts.split, "word")
    ink = parts.ink()
    bars: list[Bar] = []
    for i, height in enumerate(heights):
        x = left + (i + 0.5) * room
        paint = parts.paint(*(bar.colour for bar in bars))
        tall, letter = 0.13, strings.LETTERS[i]
        half = typeface.width_of(letter, font) * tall / 2
        place = (x - half, foot + 0.01, x + half, foot + 0.01 + tall)
        label = typeface.set_text(letter, "word", *ink, font, place)
        bars.append(Bar(letter, *paint, (x - wide / 2, foot - height, x + wide / 2, foot), label))
    return Scene("", parts.ground, bars=tuple(bars))


def _blank(parts: Parts) -> Scene:
    return Scene("", parts.ground)


_KINDS: dict[str, Callable[[Parts], Scene]] = {
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
