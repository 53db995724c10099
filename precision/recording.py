"""What a backend answers about images, with log-probabilities: the matter of every comparison."""

from collections.abc import Sequence
from dataclasses import dataclass, field

LISTED = 64  # most probable tokens that are kept of each step


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an answer: its token, and the most probable ones with their log-probabilities."""

    token_id: int
    top: tuple[tuple[int, float], ...]  # best first


@dataclass(frozen=True, slots=True)
class Recorded:
    """The greedy answer about one image.

    Attributes:
        text: What a client would read.
        decoded: Its steps, computed token by token.
        forced: The steps of another backend's answer, computed at once, as a prompt is; their
            tokens are the other's. Empty if there is no other.
    """

    text: str
    decoded: tuple[Step, ...]
    forced: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Recording:
    """The answers of one backend to questions about images.

    Attributes:
        backend: How the backend was named.
        description: How it computes, in its device's words.
        roundings: The dtypes that it rounds to: of activations, and of weights if those of the
            checkpoint are finer.
        answers: By the name of the image.
    """

    backend: str
    description: str
    roundings: frozenset[str]
    answers: dict[str, Recorded] = field(default_factory=dict)


def tokens(steps: Sequence[Step]) -> list[int]:
    """The token ids of an answer."""
    return [step.token_id for step in steps]
