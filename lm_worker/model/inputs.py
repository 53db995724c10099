"""Turns a step plan into what the device needs: arrays, segments, and where images go."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np

from glm4v.device import AttentionSegment
from glm4v.device.inputs import Int64Array, StepInputs
from lm_worker.plan import StepPlan


class ImageSpan(NamedTuple):
    """Consecutive tokens of a step that take consecutive tokens of an image's embedding."""

    image: str  # digest
    tokens: slice  # of the step
    embedding: slice  # of the image


def step_inputs(plan: StepPlan) -> StepInputs:
    """The plan's integers, one chunk after the other."""
    samples: list[int] = []
    logprobs: list[int] = []
    first = 0
    for chunk in plan.chunks:
        if chunk.scoring is not None:
            logprobs += [first + offset for offset in chunk.scoring.offsets]
        first += len(chunk.token_ids)
        if chunk.sampling is not None:
            samples += range(first - chunk.num_sampled, first)
    token_ids = _array(chain.from_iterable(chunk.token_ids for chunk in plan.chunks), first)
    positions = _array(chain.from_iterable(chunk.positions for chunk in plan.chunks), first)
    return StepInputs(
        np.maximum(token_ids, 0),
        positions,
        _array(samples, len(samples)),
        _array(logprobs, len(logprobs)),
    )


def attention_segments(plan: StepPlan) -> list[AttentionSegment]:
    """The plan's chunks as attention sees them."""
    return [AttentionSegment(len(c.token_ids), c.context_len, c.block_table) for c in plan.chunks]


def image_spans(plan: StepPlan) -> Iterator[ImageSpan]:
    """Where images go: an id of -1 - k stands for token k of the chunk's image."""
    first = 0
    for chunk in plan.chunks:
        ids = chunk.token_ids
        if chunk.image and min(ids) < 0:
            start = next(at for at, token_id in enumerate(ids) if token_id < 0)
            count = sum(token_id < 0 for token_id in ids)
            offset = -1 - ids[start]
            assert ids[start : start + count] == tuple(range(ids[start], ids[start] - count, -1))
            tokens = slice(first + start, first + start + count)
            yield ImageSpan(chunk.image, tokens, slice(offset, offset + count))
        first += len(ids)


def _array(values: Iterable[int], count: int) -> Int64Array:
    return np.fromiter(values, dtype=np.int64, count=count)
