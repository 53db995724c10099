"""The demo model's pictures: what is drawn, what is held out, and what the labels say."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from recipes.demo_model import strings
from recipes.demo_model.background import HELD_OUT, TRAINING
from recipes.demo_model.composer import KINDS, compose
from recipes.demo_model.drawing import draw
from recipes.demo_model.evaluation import SKILLS, evaluation
from recipes.demo_model.heads import of_rows
from recipes.demo_model.labels import KINDS as CELL_KINDS
from recipes.demo_model.labels import NUMBERS, cell_labels
from recipes.demo_model.palette import COLOURS, distance
from recipes.demo_model.samples import MIX, sample
from recipes.demo_model.scene import Scene
from recipes.demo_model.sources import SourceMissing, drawing
from recipes.demo_model.things import HELD_OUT as WITHHELD
from recipes.demo_model.things import held_out, things, vendors_in_training
from recipes.demo_model.vendors import VENDORS


def scenes(kind: str, count: int, split: str = "train") -> list[Scene]:
    return [compose(Random(number), split, kind) for number in range(count)]


def test_things_are_named_once() -> None:
    assert len(things()) == 250
    for name in ("code_point", "english", "plural", "chinese"):
        assert len({getattr(thing, name) for thing in things()}) == 250
    assert len(set(CELL_KINDS)) == len(CELL_KINDS)
    assert all(set(thing.vendors) <= set(VENDORS) for thing in things())


def test_withheld_drawings() -> None:
    assert len(held_out()) == WITHHELD
    for thing in things():
        assert ("twitter" in vendors_in_training(thing)) == (thing not in held_out())
        assert {"google", "twitter"} <= set(thing.vendors)


def test_numbers_and_words_are_of_one_split() -> None:
    rng = Random(1)
    for make in (strings.number, strings.word, strings.characters):
        shown = {make(rng, "train") for _ in range(3000)}
        kept = {make(rng, "held_out") for _ in range(1000)}
        assert all(len(string) < 3 for string in shown & kept)
    assert not set(strings.known("word")) & set(strings.known("held out word"))
    assert set("".join(strings.known("phrase"))) <= set(strings.CHARACTERS)


def test_backgrounds_are_of_one_split() -> None:
    assert set(TRAINING) & set(HELD_OUT) == {"plain"}
    assert {scene.background.family for scene in scenes("blank", 60)} == set(TRAINING)
    assert {scene.background.family for scene in scenes("blank", 60, "held_out")} == set(HELD_OUT)


def test_shades_are_closer_to_their_own_name() -> None:
    rng = Random(2)
    for colour in COLOURS:
        for other in COLOURS:
            if colour != other:
                pairs = [(colour.shade(rng), other.shade(rng)) for _ in range(200)]
                assert min(distance(*pair) for pair in pairs) > 60, (colour.english, other.english)


def test_shapes_are_drawn_where_the_scene_says() -> None:
    for scene in scenes("shapes", 40, "held_out"):
        pixels = np.asarray(draw(scene, 448, 448))
        for shape in scene.shapes:
            left, top, right, bottom = shape.box
            y, x = round(224 * (top + bottom)), round(224 * (left + right))
            assert tuple(pixels[y, x]) == shape.rgb


def test_a_scene_can_be_drawn_at_any_size() -> None:
    scene = scenes("shapes", 1, "held_out")[0]
    small, large = draw(scene), draw(scene, 1120, 1120)
    assert draw(scene, 640, 360).size == (640, 360)
    pair = small, large.resize(small.size, Image.Resampling.BOX)
    one, other = (np.asarray(picture, np.int16) for picture in pair)
    assert np.abs(one - other).mean() < 4


def test_labels_of_shapes() -> None:
    for scene in scenes("many shapes", 20):
        labels = cell_labels(scene)
        kinds, colours = labels.kinds, labels.colours
        wanted = {NUMBERS[shape.kind.english] for shape in scene.shapes}
        assert set(kinds) == {0, *wanted}
        for shape in scene.shapes:
            x, y = (int(8 * (shape.box[i] + shape.box[i + 2])) for i in (0, 1))
            assert CELL_KINDS[kinds[16 * y + x]] == shape.kind.english
            assert COLOURS[colours[16 * y + x]] == shape.colour


@pytest.mark.needs_fonts
def test_a_picture_row_says_what_has_its_middle_there() -> None:
    for scene in scenes("number", 20) + scenes("many shapes", 20):
        stacked = torch.from_numpy(cell_labels(scene).stacked()).long()[None]
        rows = of_rows(stacked)[0]
        assert rows.shape == (64, 3)
        parts = [(s.kind.english, s.box) for s in scene.shapes]
        for text in scene.texts:
            parts += zip(text.string, text.boxes, strict=True)
        places = [int(4 * (box[1] + box[3])) * 8 + int(4 * (box[0] + box[2])) for _, box in parts]
        assert rows[:, 2].sum() == len(set(places))
        for place, (name, _) in zip(places, parts, strict=True):
            if places.count(place) == 1:
                assert CELL_KINDS[rows[place, 0]] == name


@pytest.mark.needs_fonts
def test_characters_are_no_narrower_than_a_picture_row() -> None:
    for scene in scenes("number", 60) + scenes("word", 60, "held_out"):
        for text in scene.texts:
            left, _, right, _ = text.box
            narrow = min(1.0, 1 / scene.aspect)
            assert (right - left) / len(text.string) > 0.98 * narrow / 8


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("GLM4V_DEMO_CACHE", str(tmp_path))
    with pytest.raises(SourceMissing, match=r"python -m recipes\.demo_model\.sources"):
        drawing("google", "1f436")


def test_what_is_missing_to_fetch_is_said_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "recipes.demo_model.sources"],
        env={"PATH": "", "GLM4V_DEMO_CACHE": str(tmp_path)},  # no npm; fonts or not
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    *fetching, last = done.stderr.splitlines()
    assert re.fullmatch(r"sources: there is no .+; apt-get install .+", last)
    assert all(line.startswith("sources: fetching ") for line in fetching)


@pytest.mark.needs_fonts
@pytest.mark.needs_drawings
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", ["train", "held_out"])
def test_everything_stays_inside(kind: str, split: str) -> None:
    for scene in scenes(kind, 40, split):
        boxes = [thing.box for thing in scene.things] + [shape.box for shape in scene.shapes]
        boxes += [text.box for text in scene.texts] + [bar.box for bar in scene.bars]
        assert all(-0.01 <= edge <= 1.01 for box in boxes for edge in box), scene
        for one in range(len(boxes)):
            for other in range(one):
                assert not _overlap(boxes[one], boxes[other]), scene
        assert draw(scene).size == (224, 224)


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    tall = min(one[3], other[3]) - max(one[1], other[1])
    return wide > 0.005 and tall > 0.005


@pytest.mark.needs_fonts
@pytest.mark.needs_drawings
def test_samples_are_the_same_each_time() -> None:
    assert set(MIX) == set(KINDS)
    for index in range(30):
        one, other = sample(index, 7), sample(index, 7)
        assert one.image.shape == (224, 224, 3)
        assert one.labels.stacked().shape == (256, 3)
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.labels.stacked(), other.labels.stacked())
        assert one.exchanges == other.exchanges
        assert 1 <= len(one.exchanges) <= 10


@pytest.mark.needs_fonts
@pytest.mark.needs_drawings
@pytest.mark.parametrize("skill", SKILLS)
def test_evaluation_has_both_languages(skill: str) -> None:
    cases = list(evaluation(skill, 60))
    assert cases == list(evaluation(skill, 60))
    assert Counter(case.language for case in cases) == {"en": 30, "zh": 30}
    assert all(len(case.turns) == (2 if skill == "second turn" else 1) for case in cases)


@pytest.mark.needs_fonts
@pytest.mark.needs_drawings
def test_naming_covers_all_things_in_drawings_that_were_shown() -> None:
    seen = Counter[tuple[str, str]]()
    for case in evaluation("naming", 500):
        assert case.scene is not None
        (placed,) = case.scene.things
        assert placed.vendor in vendors_in_training(placed.thing)
        seen[placed.thing.english, case.language] += 1
    assert len(seen) == 500
    for case in evaluation("naming, other vendor", 120):
        assert case.scene is not None
        (placed,) = case.scene.things
        assert placed.vendor not in vendors_in_training(placed.thing)
