"""Questions with their answers, and what may follow them."""

from dataclasses import dataclass, field

from recipes.demo_model.nouns import Noun
from recipes.demo_model.scene import Point

FOLLOW_UP = "follow_up"  # the skill of what makes sense only behind the exchange before it


@dataclass(frozen=True)
class Exchange:
    """A question, its answer, and the skill that answering it takes."""

    question: str
    answer: str
    skill: str
    about: tuple[Point, ...] | None = None  # where what it asks for has its middles; None: anywhere
    named: Noun | None = None  # what the question names


@dataclass(frozen=True)
class Topic:
    """An exchange, and those that make sense right behind it."""

    first: Exchange
    follow_ups: list[Exchange] = field(default_factory=list)
