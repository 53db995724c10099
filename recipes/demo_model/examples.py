"""The pictures and conversations of `glm4v demo`: `python -m recipes.demo_model.examples`.

Writes the pictures beside the model, and examples.json with each question and its right answer.
None of the pictures was trained on: they are of the held-out split. They were chosen among those
that the model answers rightly in every precision and number of ranks that tests ask in.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated

import typer

from recipes.demo_model.composer import compose
from recipes.demo_model.drawing import draw
from recipes.demo_model.parts import Subject
from recipes.demo_model.things import things

_SIDE = 448


@dataclass(frozen=True)
class Example:
    """A scene, by what decides it, and a conversation about it."""

    name: str  # of the picture; empty: there is none
    kind: str
    seed: int
    turns: tuple[tuple[str, str], ...]
    thing: str = ""  # its English name, for kinds that show things


EXAMPLES = (
    Example(
        "dog",
        "one thing",
        7,
        (("What can you see?", "A dog."), ("狗在哪里？", "在中间。")),
        "a dog",
    ),
    Example(
        "rocket",
        "one thing",
        7,
        (("这张图片里有什么？", "火箭。"), ("Where is the rocket?", "In the middle.")),
        "a rocket",
    ),
    Example(
        "cats",
        "many things",
        3,
        (("What does the picture show?", "5 cats."), ("How many are there?", "5.")),
        "a cat",
    ),
    Example(
        "rockets",
        "many things",
        19,
        (("How many rockets are there?", "2."), ("And the oranges?", "3.")),
        "a rocket",
    ),
    Example(
        "shapes",
        "shapes",
        10,
        (
            ("What's on the left?", "A blue triangle."),
            ("What about on the right?", "A green diamond."),
        ),
    ),
    Example(
        "number",
        "number",
        16,
        (("图片里写着什么？", "16210"), ("那它是什么颜色的？", "红色。")),
    ),
    Example(
        "word",
        "word",
        4,
        (("Which word do you see?", "GRAPE"), ("And what colour is it?", "Blue.")),
    ),
    Example(
        "characters",
        "characters",
        14,
        (("What are the characters?", "中红"), ("And what colour is it?", "Purple.")),
    ),
    Example(
        "chart",
        "chart",
        18,
        (("What is the biggest bar?", "D."), ("What colour is it?", "Yellow.")),
    ),
    Example("", "", 0, (("你是谁？", "我是glm4v-serve的小型演示模型，可以回答关于图片的问题。"),)),
)


def write_examples(out: Path) -> None:
    """Draw the pictures, and list them."""
    out.mkdir(parents=True, exist_ok=True)
    listed = []
    for example in EXAMPLES:
        turns = [{"question": asked, "answer": answer} for asked, answer in example.turns]
        listed.append({"image": _draw(example, out), "turns": turns})
    text = json.dumps(listed, indent=2, ensure_ascii=False) + "\n"
    (out / "examples.json").write_text(text, encoding="utf-8")


def _draw(example: Example, out: Path) -> str | None:
    """The name of the picture's file; None for a conversation without one."""
    if not example.name:
        return None
    scene = compose(Random(example.seed), "held_out", example.kind, _subject(example))
    picture = f"{example.name}.png"
    draw(scene, _SIDE, _SIDE).quantize(256).save(out / picture, optimize=True)
    return picture


def _subject(example: Example) -> Subject | None:
    if not example.thing:
        return None
    return next(thing for thing in things() if thing.english == example.thing), "google"


def main(
    out: Annotated[Path, typer.Option(help="Where to.")] = Path("glm4v/demo_model/examples"),
) -> None:
    """Write the pictures and conversations of the demo."""
    write_examples(out)


if __name__ == "__main__":
    typer.run(main)
