"""Executes plans on the simulated device's cache, and checks that they make sense."""

import hashlib
import random
from dataclasses import replace
from functools import cache

import numpy as np

from glm4v.device import AttentionSegment
from glm4v.device.simulated.attention import SimulatedAttention
from glm4v.device.simulated.hashing import UInt64Array, prefix_hashes
from lm_worker.engine.scheduler import Scheduler
from lm_worker.engine.sequence import SequenceRequest, SequenceState
from lm_worker.model.runner import right_drafts
from lm_worker.plan import NO_TOKEN, Chunk, SampledToken, StepPlan

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
    """A rank of the simulated device; sequences have salts, and some give no finite logits.

    With `forces`, any number of tokens of `answers` follow the sampled ones, as if forced.
    """

    def __init__(
        self,
        block_size: int,
        max_batched_tokens: int,
        *,
        broken: set[int] | None = None,
        blocks: int = 1000,
        forces: random.Random | None = None,
    ) -> None:
        self.answers: dict[int, list[int]] = {}  # by sequence
        self._forces = forces
        self.salts: dict[int, str] = {}  # by sequence; others have none
        self.broken = broken or set()
        self._max_batched_tokens = max_batched_tokens
        self._attention = SimulatedAttention()
        self._attention.allocate(
            layers=1, blocks=blocks, block_size=block_size, kv_heads=1, head_dim=1
        )

    def execute(self, plan: StepPlan) -> list[list[SampledToken]]:
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
                own = [next_token(context) for context in contexts[end - chunk.num_sampled : end]]
                own = [NO_TOKEN] if chunk.sequence_id in self.broken else own
                right = right_drafts(chunk, [SampledToken(token) for token in own])
                sampled.append([SampledToken(token) for token in own[: 1 + right]])
                sampled[-1] += self._forced(chunk, sampled[-1])
        return sampled

    def _forced(self, chunk: Chunk, sampled: list[SampledToken]) -> list[SampledToken]:
        """Tokens that follow in the answer, but never its last one, which ends it."""
        if self._forces is None or sampled[-1].token_id == NO_TOKEN or chunk.sampling is None:
            return []
        first = chunk.sampling.index + len(sampled)
        following = self.answers[chunk.sequence_id][first:-1][: self._forces.randint(0, 5)]
        return [SampledToken(token, is_forced=True) for token in following]


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
