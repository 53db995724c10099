"""One request of a load."""

from dataclasses import dataclass

CLOSED = 0.0  # the planned time of a request that a caller sends when its last answer has ended


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What is asked, and when.

    Attributes:
        number: Its place in the load, from 0.
        at_s: When it arrives, in seconds after the load has begun; `CLOSED` in a closed loop.
        text: The question.
        image: The number of its image file among the load's `ImageFiles`; None for a text alone.
        max_tokens: The length of its answer.
    """

    number: int
    at_s: float
    text: str
    image: int | None
    max_tokens: int
