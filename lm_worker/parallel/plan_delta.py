"""Step plans as other ranks need them: without sampling, and with new cache blocks only.

A block table only grows until its sequence releases its blocks, so each rank keeps the tables and a
plan carries what was appended. At 64 sequences of 9 800 tokens a whole table is 613 numbers.
"""

from typing import NamedTuple

from pydantic import TypeAdapter

from lm_worker.plan import BlockCopy, Chunk, PromptScoring, SamplingParams, SamplingState, StepPlan

_SAMPLED_ELSEWHERE = SamplingState(SamplingParams(), index=0)  # rank 0 has the real one


class _ChunkDelta(NamedTuple):
    sequence_id: int
    token_ids: tuple[int, ...]
    positions: tuple[int, ...]
    context_len: int
    new_blocks: tuple[int, ...]
    image: str  # empty unless `token_ids` has image tokens
    scored_offsets: tuple[int, ...]
    num_sampled: int


class _PlanDelta(NamedTuple):
    number: int
    released: tuple[int, ...]
    chunks: tuple[_ChunkDelta, ...]
    copies: tuple[BlockCopy, ...]


_DELTAS = TypeAdapter(_PlanDelta)


class PlanEncoder:
    """Encodes the plans of one engine, in order."""

    def __init__(self) -> None:
        self._num_sent: dict[int, int] = {}  # blocks of each sequence's table

    def encode(self, plan: StepPlan) -> bytes:
        """The plan as JSON, for a `PlanDecoder` that has read all plans before it."""
        for sequence_id in plan.released:
            self._num_sent.pop(sequence_id, None)
        chunks = tuple(map(self._delta, plan.chunks))
        return _DELTAS.dump_json(_PlanDelta(plan.number, plan.released, chunks, plan.copies))

    def _delta(self, chunk: Chunk) -> _ChunkDelta:
        num_sent = self._num_sent.get(chunk.sequence_id, 0)
        self._num_sent[chunk.sequence_id] = len(chunk.block_table)
        return _ChunkDelta(
            chunk.sequence_id,
            chunk.token_ids,
            chunk.positions,
            chunk.context_len,
            chunk.block_table[num_sent:],
            chunk.image if min(chunk.token_ids) < 0 else "",
            chunk.scoring.offsets if chunk.scoring is not None else (),
            chunk.num_sampled,
        )


class PlanDecoder:
    """Decodes what one `PlanEncoder` encoded, in order."""

    def __init__(self) -> None:
        self._tables: dict[int, tuple[int, ...]] = {}

    def decode(self, data: bytes) -> StepPlan:
        """The plan, equal to the encoded one in all that a forward pass depends on."""
        delta = _DELTAS.validate_json(data)
        for sequence_id in delta.released:
            self._tables.pop(sequence_id, None)
        chunks = tuple(map(self._chunk, delta.chunks))
        return StepPlan(delta.number, chunks, delta.released, delta.copies)

    def _chunk(self, delta: _ChunkDelta) -> Chunk:
        table = self._tables.get(delta.sequence_id, ()) + delta.new_blocks
        self._tables[delta.sequence_id] = table
        offsets = delta.scored_offsets
        return Chunk(
            delta.sequence_id,
            delta.token_ids,
            delta.positions,
            delta.context_len,
            table,
            delta.image,
            _SAMPLED_ELSEWHERE if delta.num_sampled else None,
            PromptScoring(offsets, (), (), 0) if offsets else None,
            (_SAMPLED_ELSEWHERE,) * (delta.num_sampled - 1),
        )
