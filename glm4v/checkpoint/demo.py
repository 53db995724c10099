"""The demo model that comes with the package, and the conversations that show it."""

import json
from dataclasses import dataclass
from pathlib import Path

DEMO_MODEL = Path(__file__).resolve().parents[1] / "demo_model"


@dataclass(frozen=True, slots=True)
class Example:
    """An image file and a conversation about it: questions, each with the model's answer."""

    image: Path | None  # None: a conversation without one
    turns: tuple[tuple[str, str], ...]


def demo_examples() -> list[Example]:
    """In the order they are shown."""
    folder = DEMO_MODEL / "examples"
    listed = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
    return [
        Example(
            folder / each["image"] if each["image"] else None,
            tuple((turn["question"], turn["answer"]) for turn in each["turns"]),
        )
        for each in listed
    ]
