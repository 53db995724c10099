"""The demo model's conversations: what is asked about a scene, and what is answered."""

from collections import Counter
from random import Random

import pytest

from recipes.demo_model.composer import compose
from recipes.demo_model.exchange import Exchange
from recipes.demo_model.palette import COLOURS
from recipes.demo_model.questions import conversation, text_only
from recipes.demo_model.scene import Background, PlacedThing, Scene, Shape, Text
from recipes.demo_model.shapes import SHAPES
from recipes.demo_model.things import Thing, things
from recipes.demo_model.topics import Topics

LEFT, RIGHT = (0.1, 0.3, 0.4, 0.6), (0.6, 0.3, 0.9, 0.6)
RED, BLUE = (next(c for c in COLOURS if c.english == name) for name in ("red", "blue"))
PATTERN = Background("stripes", (200, 200, 200), (220, 220, 220), None)
PLAIN = Background("plain", (0, 0, 255), (0, 0, 255), BLUE)


def thing(english: str) -> Thing:
    return next(each for each in things() if each.english == english)


def placed(english: str, box: tuple[float, float, float, float] = LEFT) -> PlacedThing:
    return PlacedThing(thing(english), "google", box)


def asked(scene: Scene, language: str, times: int = 60) -> dict[str, set[str]]:
    """All answers of each skill, with all wordings."""
    found: dict[str, set[str]] = {}
    for seed in range(times):
        for topic in Topics(scene, Random(seed), language).all():
            for exchange in (topic.first, *topic.follow_ups):
                found.setdefault(exchange.skill, set()).add(exchange.answer)
    return found


TWO = Scene("two things", PATTERN, (placed("a dog"), placed("an apple", RIGHT)), layout="row")


def test_two_things() -> None:
    english = asked(TWO, "en")
    assert english["name"] == {"A dog and an apple."}
    assert english["describe"] == {"A dog on the left and an apple on the right."}
    assert english["where"] == {"A dog.", "An apple.", "On the left.", "On the right."}
    assert english["exists"] == {"Yes.", "No."}
    chinese = asked(TWO, "zh")
    assert chinese["name"] == {"狗和苹果。"}
    assert chinese["describe"] == {"左边是狗，右边是苹果。"}
    assert chinese["where"] == {"狗。", "苹果。", "在左边。", "在右边。"}
    assert chinese["exists"] == {"有。", "没有。"}


def test_one_thing_on_a_colour() -> None:
    scene = Scene("one thing", PLAIN, (placed("scissors"),), layout="single")
    english = asked(scene, "en")
    assert english["name"] == {"Scissors."}
    assert english["describe"] == {"Scissors on a blue background."}
    assert english["where"] == {"On the left."}
    assert english["colour"] == {"Blue."}
    assert asked(scene, "zh")["describe"] == {"蓝色背景上的剪刀。"}


def test_many_things() -> None:
    boxes = [(0.1 * i, 0.1, 0.1 * i + 0.08, 0.2) for i in range(3)]
    dogs = tuple(placed("a dog", box) for box in boxes)
    scene = Scene("many things", PATTERN, (placed("an apple", RIGHT), *dogs))
    assert asked(scene, "en")["name"] == {"3 dogs and an apple."}
    assert asked(scene, "zh")["name"] == {"3只狗和苹果。"}
    assert {"3.", "1.", "4.", "0."} >= asked(scene, "en")["count"] > {"3."}


def test_a_shape_and_a_word() -> None:
    circle = Shape(SHAPES[0], RED, (255, 0, 0), LEFT)
    scene = Scene("shapes", PLAIN, shapes=(circle,), layout="single")
    assert asked(scene, "en")["name"] == {"A red circle.", "A circle."}
    assert asked(scene, "zh")["colour"] == {"红色。", "蓝色。"}
    word = Text("CAT", "word", RED, (255, 0, 0), "", (LEFT,) * 3)
    scene = Scene("word", PATTERN, texts=(word,))
    assert asked(scene, "en")["read"] == asked(scene, "zh")["read"] == {"CAT"}
    assert asked(scene, "en")["describe"] == {"The word CAT.", "The word CAT in red."}
    assert asked(scene, "zh")["describe"] == {"单词CAT。", "红色的单词CAT。"}


def test_nothing() -> None:
    scene = Scene("blank", PATTERN)
    assert asked(scene, "en")["name"] == {"Nothing."}
    assert asked(scene, "zh")["describe"] == {"什么也没有。"}
    assert asked(scene, "en")["exists"] == {"No."}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_slot_is_left_open(language: str) -> None:
    for seed in range(200):
        scene = compose(Random(seed), "train", ("shapes", "many shapes", "blank")[seed % 3])
        for exchange in conversation(scene, Random(seed), language):
            assert not set("{}") & set(exchange.question + exchange.answer), exchange
            assert exchange.answer[0] == exchange.answer[0].upper()


def test_yes_and_no_are_balanced() -> None:
    answers = Counter[str]()
    for seed in range(600):
        scene = compose(Random(seed), "train", "shapes")
        told = conversation(scene, Random(seed), "en")
        answers.update(each.answer for each in told if each.answer in ("Yes.", "No."))
    assert 0.8 < answers["Yes."] / answers["No."] < 1.25


@pytest.mark.parametrize("language", ["en", "zh"])
def test_small_talk(language: str) -> None:
    said: set[Exchange] = set()
    for seed in range(300):
        told = text_only(Random(seed), language)
        assert 1 <= len(told) <= 4
        said.update(told)
    assert len({exchange.answer for exchange in said}) == 16
    assert len({exchange.question for exchange in said}) > 50
