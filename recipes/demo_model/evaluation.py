"""Pictures and questions never trained on, one set for each skill.

The sets are made, not stored: skill, seed and number decide each case. Each set has both languages
in turns. Pictures are of the held-out split (see `composer`) unless another one is asked for.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from recipes.demo_model.composer import compose
from recipes.demo_model.exchange import Exchange, Topic
from recipes.demo_model.parts import Subject
from recipes.demo_model.questions import text_only
from recipes.demo_model.scene import Scene
from recipes.demo_model.things import held_out, things, vendors_in_training
from recipes.demo_model.topics import Topics


@dataclass(frozen=True)
class Case:
    """A conversation with the answers it should get; the last one is what is scored."""

    scene: Scene | None  # None: a question without a picture
    turns: list[tuple[str, str]]
    skill: str
    language: str


@dataclass(frozen=True)
class _Exam:
    kinds: tuple[str, ...]  # of scenes
    skill: str  # of the exchange
    wanted: Callable[[Exchange, int], bool] = lambda exchange, number: True
    subject: Callable[[int], Subject | None] = lambda number: None


def _named_thing(number: int) -> Subject:
    turn, index = divmod(number // 2, len(things()))
    vendors = vendors_in_training(things()[index])
    return things()[index], vendors[(turn + index) % len(vendors)]


def _other_drawing(number: int) -> Subject:
    ordered = sorted(held_out(), key=lambda thing: thing.code_point)
    return ordered[number // 2 % len(ordered)], "twitter"


def _is_balanced(exchange: Exchange, number: int) -> bool:
    """Yes and no in turns, in both languages."""
    return (exchange.answer in ("Yes.", "有。")) == (number // 2 % 2 == 0)


def _is_one_to_six(exchange: Exchange, number: int) -> bool:
    return exchange.answer[0] == str(number // 2 % 6 + 1)


_EXAMS = {
    "naming": _Exam(("one thing",), "name", subject=_named_thing),
    "naming, other vendor": _Exam(("one thing",), "name", subject=_other_drawing),
    "colours": _Exam(("shapes", "shapes", "number", "word", "blank"), "colour"),
    "counting": _Exam(("many things", "many things", "many shapes"), "count", _is_one_to_six),
    "position": _Exam(("one thing", "two things", "some things", "shapes"), "where"),
    "numbers": _Exam(("number",), "read"),
    "words": _Exam(("word",), "read"),
    "characters": _Exam(("characters",), "read"),
    "exists": _Exam(("one thing", "two things", "some things", "shapes"), "exists", _is_balanced),
    "chart": _Exam(("chart",), "chart"),
    "description": _Exam(("one thing", "two things", "many things", "shapes"), "describe"),
    "blank": _Exam(("blank",), "name"),
}
SECOND_TURN = ("one thing", "two things", "some things", "many things", "shapes", "number", "chart")
SKILLS = (*_EXAMS, "second turn", "about itself")


def evaluation(skill: str, count: int, seed: int = 0, split: str = "held_out") -> Iterator[Case]:
    """The cases of a skill; 500 of "naming" name all 250 things in both languages."""
    for number in range(count):
        rng = Random(f"{skill} {seed} {number // 2}")
        yield _case(skill, number, rng, split)


def _case(skill: str, number: int, rng: Random, split: str) -> Case:
    language = ("en", "zh")[number % 2]
    if skill == "about itself":
        said = text_only(rng, language)[0]
        return Case(None, [(said.question, said.answer)], skill, language)
    while True:
        if skill == "second turn":
            scene = compose(rng, split, rng.choice(SECOND_TURN))
            topics = [topic for topic in Topics(scene, rng, language).all() if topic.follow_ups]
        else:
            exam = _EXAMS[skill]
            scene = compose(rng, split, rng.choice(exam.kinds), exam.subject(number))
            topics = [
                topic
                for topic in Topics(scene, rng, language).all()
                if topic.first.skill == exam.skill and exam.wanted(topic.first, number)
            ]
        if topics:
            told = _told(rng.choice(topics), rng, followed=skill == "second turn")
            turns = [(exchange.question, exchange.answer) for exchange in told]
            return Case(scene, turns, skill, language)


def _told(topic: Topic, rng: Random, *, followed: bool) -> list[Exchange]:
    return [topic.first, rng.choice(topic.follow_ups)] if followed else [topic.first]
