"""What scheduler and device tell each other in one step: plain values, fit to be sent."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SampleSpec:
    """How the token after a chunk's last row is chosen; complete, so samplers keep no state."""

    temperature: float  # 0 is greedy
    top_k: int  # 0 is off
    top_p: float  # 1 is off
    repetition_penalty: float  # 1 is off
    seed: int
    index: int  # of the token in the answer: the counter of its draw
    seen: tuple[int, ...] = ()  # distinct ids the penalty applies to; empty when it is off
    want_logprobs: bool = False
    top_logprobs: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """The rows one sequence computes in a step, from `start_row` on."""

    sequence_id: int
    row_ids: tuple[int, ...]  # a token id, or -1-k for row k of the picture
    positions: tuple[int, ...]  # rotary positions
    start_row: int  # rows of this sequence that are in the cache already
    block_table: tuple[int, ...]  # cache blocks, covering at least start_row + len(row_ids) rows
    picture: str  # digest, empty without one
    sample: SampleSpec | None  # None: an inner chunk of a prefill


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One forward pass."""

    number: int
    chunks: tuple[Chunk, ...]

    @property
    def row_count(self) -> int:
        """Rows computed in this step."""
        return sum(len(chunk.row_ids) for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class SampledToken:
    """The choice for one chunk that asked for one."""

    sequence_id: int
    token_id: int
    logprob: float | None  # before temperature and penalties; None when not wanted
    top: tuple[tuple[int, float], ...]  # most probable ids with their logprobs, best first
