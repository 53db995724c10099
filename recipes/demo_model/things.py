"""The things that the model can name: 250 emoji, with their names in English and Chinese.

They were chosen so that the vendors draw them clearly and unlike one another. For 60 of them,
picked by a hash of the code point, Twitter's drawing is never shown in training, so that it can be
asked how well the other vendor's drawing of the same thing is known.
"""

import csv
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HELD_OUT = 60  # things whose Twitter drawing is kept for evaluation


@dataclass(frozen=True)
class Thing:
    """Something with a drawing and a name."""

    code_point: str  # as the drawings' files are named: "1f415", "2702-fe0f"
    english: str  # with its article
    plural: str
    chinese: str
    measure_word: str
    icon: str  # its name in the sets of icons
    drawn_by: str  # vendors whose drawings are clear, separated by spaces

    @property
    def vendors(self) -> tuple[str, ...]:
        """Those who draw it clearly."""
        return tuple(self.drawn_by.split())


@cache
def things() -> tuple[Thing, ...]:
    """All of them, in the order of the file."""
    with Path(__file__).with_name("things.csv").open(encoding="utf-8", newline="") as file:
        return tuple(Thing(**row) for row in csv.DictReader(file))


@cache
def held_out() -> frozenset[Thing]:
    """Those whose Twitter drawing is never shown in training."""

    def order(thing: Thing) -> bytes:
        return hashlib.sha256(thing.code_point.encode()).digest()

    return frozenset(sorted(things(), key=order)[:HELD_OUT])


def vendors_in_training(thing: Thing) -> tuple[str, ...]:
    """Whose drawings of the thing training shows."""
    withheld = "twitter" if thing in held_out() else ""
    return tuple(vendor for vendor in thing.vendors if vendor != withheld)
