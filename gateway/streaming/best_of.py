"""Chooses the best of several candidate answers."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from gateway.streaming.choice import ChoiceFollower, follow_all, repeated_stage
from gateway.streaming.events import is_interim
from glm4v.v1 import inference_pb2 as api


async def run_to_end(
    candidates: Sequence[ChoiceFollower], keepalive_s: float
) -> AsyncGenerator[api.GenerationEvent, None]:
    """Follow all candidates to their ends, and yield only their interim events.

    A stage is repeated after `keepalive_s` without one, because tokens of candidates are not
    reported. Raises the error of the first candidate that fails.
    """
    yielded_at = time.monotonic()
    async with aclosing(follow_all(candidates, keepalive_s)) as events:
        async for event in events:
            if is_interim(event):
                yield event
            elif time.monotonic() - yielded_at >= keepalive_s:
                yield repeated_stage(candidates)
            else:
                continue
            yielded_at = time.monotonic()


def best(candidates: Sequence[ChoiceFollower], count: int) -> list[int]:
    """Indices of the `count` candidates with the highest mean log-probability, best first."""
    scores = [each.builder.mean_logprob for each in candidates]
    return sorted(range(len(scores)), key=lambda index: -scores[index])[:count]
