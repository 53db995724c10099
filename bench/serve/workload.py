"""Which requests a load has."""

import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from bench.serve.request import LoadRequest
from bench.serve.words import words


@dataclass(frozen=True, slots=True)
class Mix:
    """What is asked.

    Attributes:
        image_share: Of requests that have an image; 0 to 1.
        image_size: Its width and height, in pixels.
        repeat_share: Of these, those whose image was sent before; 0 to 1.
        words: Of a question.
        max_tokens: Of an answer.
        seed: Of texts, of images, and of what has which image.
    """

    image_share: float
    image_size: int
    repeat_share: float
    words: int
    max_tokens: int
    seed: int


def workload(mix: Mix, times: Iterable[float]) -> Iterator[LoadRequest]:
    """A request for each time of arrival."""
    texts = (
        LoadRequest(number, at_s, words(mix.words, f"{mix.seed} {number}"), None, mix.max_tokens)
        for number, at_s in enumerate(times)
    )
    return with_images(mix, texts)


def with_images(mix: Mix, requests: Iterable[LoadRequest]) -> Iterator[LoadRequest]:
    """The requests, some with an image."""
    generator = random.Random(mix.seed)
    drawn = 0
    for request in requests:
        image = None
        if generator.random() < mix.image_share:
            if drawn and generator.random() < mix.repeat_share:
                image = generator.randrange(drawn)
            else:
                image, drawn = drawn, drawn + 1
        yield replace(request, image=image)


def until(requests: Iterable[LoadRequest], seconds: float) -> Iterator[LoadRequest]:
    """The requests that arrive in the first `seconds`."""
    return itertools.takewhile(lambda request: request.at_s < seconds, requests)
