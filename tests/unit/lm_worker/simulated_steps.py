"""Executes plans on the simulated device's cache, and checks that they make sense."""

import hashlib
from dataclasses import replace
from functools import cache

import numpy as np

from glm4v.device import AttentionSegment
from glm4v.device.simulated.attention import SimulatedAttention
from glm4v.device.simulated.hashing import UInt64Array, prefix_hashes
from lm_worker.engine.scheduler import Scheduler
from lm_worker.engine.sequence import SequenceRequest, SequenceState
from lm_worker.plan import NO_TOKEN, SampledToken, StepPlan

NUM_IMAGE_TOKENS = 18


def make_request(
    name: str,
    prompt: tuple[int, ...],
    *,
    most: int,
    image: str = "",
    priority: int = 3,
    salt: str = "",
    client: str = "",
) -> SequenceRequest:
    return SequenceRequest(
        request_id=name,
        prompt_ids=prompt,
        image=image,
        image_offset=2 if image else -1,
        max_tokens=most,
        stop_ids=frozenset({7}),
        priority=priority,
        cache_salt=salt,
        client=client,
    )


def hashed(token_ids: tuple[int, ...], image: str, salt: str) -> UInt64Array:
    """A hash of each token that tells apart what must not be shared: images and salts."""
    hashes = [_hash_of(token, image if token < 0 else "", salt) for token in token_ids]
    return np.array(hashes, dtype=np.uint64)


@cache
def _hash_of(token: int, image: str, salt: str) -> int:
    digest = hashlib.blake2b(f"{token} {image} {salt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest)


def next_token(context: np.uint64) -> int:
    """The next token is a function of all tokens before it."""
    return 5 + int(context) % 55


def num_tokens(plan: StepPlan) -> int:
    """Tokens computed in a step."""
    return sum(len(chunk.token_ids) for chunk in plan.chunks)


class StepRunner:
    """A rank of the simulated device; sequences have salts, and some give no finite logits."""

    def __init__(
        self,
        block_size: int,
        max_batched_tokens: int,
        *,
        broken: set[int] | None = None,
        blocks: int = 1000,
    ) -> None:
        self.salts: dict[int, str] = {}  # by sequence; others have none
        self.broken = broken or set()
        self._max_batched_tokens = max_batched_tokens
        self._attention = SimulatedAttention()
        self._attention.allocate(
            layers=1, blocks=blocks, block_size=block_size, kv_heads=1, head_dim=1
        )

    def execute(self, plan: StepPlan) -> list[SampledToken]:
        assert num_tokens(plan) <= self._max_batched_tokens
        ids = [chunk.sequence_id for chunk in plan.chunks]
        assert len(set(ids)) == len(ids)
        for copy in plan.copies:
            self._attention.copy_tokens(*copy)
        self._attention.prepare(
            [AttentionSegment(len(c.token_ids), c.context_len, c.block_table) for c in plan.chunks]
        )
        hashes = [
            hashed(chunk.token_ids, chunk.image, self.salts.get(chunk.sequence_id, ""))
            for chunk in plan.chunks
        ]
        contexts = self._attention.attend(0, np.concatenate(hashes))
        ends = np.cumsum([len(chunk.token_ids) for chunk in plan.chunks])
        sampled = []
        for chunk, end in zip(plan.chunks, ends, strict=True):
            if chunk.sampling is not None:
                is_broken = chunk.sequence_id in self.broken
                token = NO_TOKEN if is_broken else next_token(contexts[end - 1])
                sampled.append(SampledToken(token))
        return sampled


def alone(request: SequenceRequest) -> list[int]:
    """The answer when nothing else runs."""
    return list(_alone(replace(request, request_id="", priority=3, client="")))


@cache
def _alone(request: SequenceRequest) -> tuple[int, ...]:
    sequence = SequenceState(0, request, NUM_IMAGE_TOKENS, ())
    while not sequence.is_over():
        token_ids = sequence.input_ids(0, sequence.num_known_tokens)
        hashes = hashed(token_ids, request.image, request.cache_salt)
        sequence.add_token(next_token(prefix_hashes(hashes)[-1]))
    return tuple(sequence.token_ids)


def run_one(scheduler: Scheduler, device: StepRunner) -> StepPlan:
    """One step, of a scheduler that has something to do."""
    plan = scheduler.plan()
    assert plan is not None
    scheduler.apply(plan, device.execute(plan))
    return plan
