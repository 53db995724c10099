"""How far two backends agree, without a judge: equal tokens, first divergence, distances.

A distance is the |Δ| of a log-probability. It is taken in each step over the tokens that are most
probable to the reference, along two ways:

- prefill: the candidate computes the reference's whole answer at once. All steps are comparable.
- decode: the candidate computes its own answer token by token. Its steps are comparable up to the
  first token that differs, that step included.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from precision.recording import Recorded, Recording, Step, tokens

COMPARED = 8  # of the reference's most probable tokens, in each step


@dataclass(frozen=True, slots=True)
class Distances:
    """A summary of many distances."""

    mean: float
    p50: float
    p99: float
    largest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Distances":
        """Of at least one."""
        p50, p99 = np.percentile(values, (50, 99))
        return cls(float(np.mean(values)), float(p50), float(p99), float(np.max(values)))


@dataclass(frozen=True, slots=True)
class ImageAgreement:
    """Two answers about one image.

    Attributes:
        steps: Tokens of the reference's answer.
        same_best: Steps along the reference's answer in which both prefer the same token.
        divergence: Index of the first token that differs; None if the answers are equal.
        margin: By how much more probable its own token there is to the reference than the
            candidate's: a difference of log-probabilities, 0 without a divergence.
    """

    name: str
    reference: str
    candidate: str
    steps: int
    same_best: int
    divergence: int | None
    margin: float
    prefill: tuple[float, ...]
    decode: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two backends on all images."""

    images: tuple[ImageAgreement, ...]
    prefill: Distances
    decode: Distances

    @property
    def steps(self) -> int:
        """Tokens of all answers of the reference."""
        return sum(image.steps for image in self.images)

    @property
    def same_best(self) -> int:
        """Of these, the steps in which both prefer the same token."""
        return sum(image.same_best for image in self.images)

    @property
    def diverged(self) -> list[ImageAgreement]:
        """Images whose answers differ."""
        return [image for image in self.images if image.divergence is not None]


def agreement(reference: Recording, candidate: Recording) -> Agreement:
    """Compare two recordings of the same images; the candidate's was made along the reference."""
    images = tuple(
        _image(name, answer, candidate.answers[name]) for name, answer in reference.answers.items()
    )
    return Agreement(
        images,
        Distances.of([each for image in images for each in image.prefill]),
        Distances.of([each for image in images for each in image.decode]),
    )


def first_divergence(reference: Sequence[int], candidate: Sequence[int]) -> int | None:
    """Index of the first token that differs or that only one has; None if none does."""
    for index, (left, right) in enumerate(zip(reference, candidate, strict=False)):
        if left != right:
            return index
    if len(reference) == len(candidate):
        return None
    return min(len(reference), len(candidate))


def step_distances(reference: Step, candidate: Step) -> list[float]:
    """The distances of one step: of the reference's `COMPARED` most probable tokens.

    Of a token that the candidate does not list only a bound is known: it is less probable than all
    that are listed. The distance to that bound counts, which is the least that it can be.
    """
    listed = dict(candidate.top)
    bound = candidate.top[-1][1]
    return [
        abs(logprob - listed[token_id]) if token_id in listed else max(0.0, logprob - bound)
        for token_id, logprob in reference.top[:COMPARED]
    ]


def _image(name: str, reference: Recorded, candidate: Recorded) -> ImageAgreement:
    divergence = first_divergence(tokens(reference.decoded), tokens(candidate.decoded))
    comparable = len(reference.decoded) if divergence is None else divergence + 1
    return ImageAgreement(
        name,
        reference.text,
        candidate.text,
        steps=len(reference.decoded),
        same_best=sum(
            left.top[0][0] == right.top[0][0]
            for left, right in zip(reference.decoded, candidate.forced, strict=True)
        ),
        divergence=divergence,
        margin=0.0 if divergence is None else _margin(reference, candidate, divergence),
        prefill=_distances(reference.decoded, candidate.forced),
        decode=_distances(reference.decoded[:comparable], candidate.decoded[:comparable]),
    )


def _distances(reference: Sequence[Step], candidate: Sequence[Step]) -> tuple[float, ...]:
    pairs = zip(reference, candidate, strict=True)
    return tuple(each for left, right in pairs for each in step_distances(left, right))


def _margin(reference: Recorded, candidate: Recorded, index: int) -> float:
    """How much the reference prefers its own token; at least so much if it lists no other."""
    step = reference.decoded[index]
    listed = dict(step.top)
    other = listed.get(candidate.decoded[index].token_id, step.top[-1][1])
    return listed[step.token_id] - other
