"""The training samples: sample number `index` of a seed is always the same."""

from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from recipes.demo_model.composer import compose
from recipes.demo_model.drawing import draw
from recipes.demo_model.labels import CellLabels, cell_labels
from recipes.demo_model.questions import Exchange, conversation
from recipes.demo_model.scene import Scene

MIX = {  # how often each kind of scene is shown
    "one thing": 9,
    "two things": 9,
    "some things": 6,
    "many things": 28,
    "shapes": 8,
    "many shapes": 13,
    "number": 4,
    "word": 15,
    "characters": 4,
    "text with thing": 3,
    "chart": 2,
    "blank": 1,
}
APART = 0.75  # how many conversations are taught as one for each topic (see `turns`)
BOTH_LANGUAGES = 0.05  # how many conversations change their language on the way


@dataclass(frozen=True)
class Sample:
    """A picture, its dense labels, and a conversation about it."""

    image: NDArray[np.uint8]  # [224, 224, 3]
    labels: CellLabels
    exchanges: list[Exchange]
    apart: bool


def scene_of(index: int, seed: int) -> Scene:
    """The scene of a sample."""
    rng = Random(f"scene {seed} {index}")
    return compose(rng, "train", rng.choices(list(MIX), list(MIX.values()))[0])


def sample(index: int, seed: int) -> Sample:
    """One sample; even indices speak English, odd ones Chinese."""
    scene = scene_of(index, seed)
    rng = Random(f"conversation {seed} {index}")
    languages = ("en", "zh") if index % 2 == 0 else ("zh", "en")
    exchanges = conversation(scene, rng, languages[0])
    if rng.random() < BOTH_LANGUAGES:
        exchanges = exchanges[:3] + conversation(scene, rng, languages[1])[:3]
    return Sample(np.array(draw(scene)), cell_labels(scene), exchanges, rng.random() < APART)
