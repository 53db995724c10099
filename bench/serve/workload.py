"""Which requests a load has."""

import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bench.serve.request import LoadRequest
from bench.serve.words import words


@dataclass(frozen=True, slots=True)
class Mix:
    """What is asked.

    Attributes:
        image_share: Of requests that have an image; 0 to 1.
        repeat_share: Of these, those whose image was sent before; 0 to 1.
        words: Of a question.
        max_tokens: Of an answer.
        seed: Of texts and of what has which image.
    """

    image_share: float
    repeat_share: float
    words: int
    max_tokens: int
    seed: int


def workload(mix: Mix, times: Iterable[float]) -> Iterator[LoadRequest]:
    """A request for each time of arrival."""
    generator = random.Random(mix.seed)
    drawn = 0
    for number, at_s in enumerate(times):
        image = None
        if generator.random() < mix.image_share:
            if drawn and generator.random() < mix.repeat_share:
                image = generator.randrange(drawn)
            else:
                image, drawn = drawn, drawn + 1
        text = words(mix.words, f"{mix.seed} {number}")
        yield LoadRequest(number, at_s, text, image, mix.max_tokens)


def until(requests: Iterable[LoadRequest], seconds: float) -> Iterator[LoadRequest]:
    """The requests that arrive in the first `seconds`."""
    return itertools.takewhile(lambda request: request.at_s < seconds, requests)
