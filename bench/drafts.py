"""Measures what several tokens a step gain and cost: the same requests with and without them."""

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from bench.draft_loads import Load
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.device import Device
from glm4v.tensor_bytes import TensorBytes
from lm_worker.assembly import EngineConfig, build_engine
from lm_worker.engine.sequence import SequenceRequest, TokenOutput

_MAX_BATCHED_TOKENS = 512
_BLOCK_TOKENS = 1024  # of cache for each caller


@dataclass(frozen=True, slots=True)
class Figures:
    """Tokens per second of one load, with and without `GLM4V_DRAFTS`, by round."""

    load: str
    callers: int
    off: tuple[float, ...]
    on: tuple[float, ...]
    tokens: int  # with drafts, of all rounds
    forced: int  # of them
    steps: float  # of a sequence, for all of them
    drafted: int
    accepted: int

    @property
    def ratios(self) -> list[float]:
        """With over without, of each round."""
        return [on / off for on, off in zip(self.on, self.off, strict=True)]


class _Side:
    """One engine; its output is kept for comparison."""

    def __init__(
        self, checkpoint: Checkpoint, device: Device, callers: int, *, drafts: bool
    ) -> None:
        config = EngineConfig(
            blocks=callers * _BLOCK_TOKENS // device.block_size,
            max_num_seqs=callers,
            max_batched_tokens=_MAX_BATCHED_TOKENS,
            prefix_cache=False,
            drafts=drafts,
        )
        self.engine = build_engine(checkpoint, device, config, self)
        self.outputs: dict[str, list[int]] = {}
        self._left = 0
        self._done = asyncio.Event()

    async def publish(self, outputs: Sequence[TokenOutput]) -> set[int]:
        """The engine's sink."""
        for output in outputs:
            self.outputs.setdefault(output.request_id, []).append(output.sampled.token_id)
            self._left -= output.is_last
        if self._left == 0:
            self._done.set()
        return set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["_Side"]:
        """The engine runs inside."""
        try:
            await self.engine.start()
            task = asyncio.create_task(self.engine.run())
            task.add_done_callback(lambda _: self._done.set())
            yield self
            self.engine.stop()
            await task
        finally:
            self.engine.close()

    async def answer(self, asked: Sequence[tuple[SequenceRequest, TensorBytes | None]]) -> float:
        """Seconds for requests that are added at once."""
        self._left += len(asked)
        self._done.clear()
        start = time.perf_counter()
        for request, embedding in asked:
            await self.engine.add(request, (), embedding)
        await self._done.wait()
        assert self._left == 0, "the engine ended"
        return time.perf_counter() - start


async def measure(
    checkpoint: Checkpoint,
    device: Device,
    loads: Sequence[Load],
    *,
    rounds: int,
    callers: Sequence[int],
) -> list[Figures]:
    """All loads for each number of callers; raises AssertionError where drafts change a token."""
    most = max(callers)
    off = _Side(checkpoint, device, most, drafts=False)
    on = _Side(checkpoint, device, most, drafts=True)
    async with off.running(), on.running():
        return [await _compare(off, on, load, count, rounds) for load in loads for count in callers]


async def _compare(off: _Side, on: _Side, load: Load, callers: int, rounds: int) -> Figures:
    rates: list[tuple[float, float]] = []
    counts = on.engine.counts
    for number in range(rounds + 1):  # the first one compiles formats and takes memory
        if number == 1:
            before = replace(counts)
        seconds = [0.0, 0.0]
        on.outputs.clear()
        off.outputs.clear()
        for batch in range(load.batches):
            asked = list(itertools.islice(load.requests, callers))
            sides = (off, on) if (number + batch) % 2 else (on, off)
            for side in sides:
                seconds[side is on] += await side.answer(asked)
        assert off.outputs == on.outputs, f"drafts changed a token of {load.name}"
        tokens = sum(map(len, on.outputs.values()))
        if number:
            rates.append((tokens / seconds[0], tokens / seconds[1]))
    rates_off, rates_on = zip(*rates, strict=True)
    return Figures(
        load.name,
        callers,
        rates_off,
        rates_on,
        counts.sampled_tokens - before.sampled_tokens,
        counts.forced_tokens - before.forced_tokens,
        (counts.steps - before.steps) * callers,
        counts.draft_tokens - before.draft_tokens,
        counts.accepted_tokens - before.accepted_tokens,
    )


def table(figures: Sequence[Figures]) -> str:
    """A table in Markdown."""
    lines = [
        "| load | callers | tok/s, off | tok/s, on | on / off | least to greatest "
        "| forced tokens | tokens a step | drafted, right |",
        "|---|---:|---:|---:|---:|---|---:|---:|---:|",
    ]
    for each in figures:
        ratios = each.ratios
        right = f"{each.accepted / each.drafted:.0%}" if each.drafted else "-"
        lines.append(
            f"| {each.load} | {each.callers} | {statistics.median(each.off):.0f} | "
            f"{statistics.median(each.on):.0f} | **{statistics.median(ratios):.2f}** | "
            f"{min(ratios):.2f} to {max(ratios):.2f} | {each.forced / each.tokens:.0%} | "
            f"{each.tokens / each.steps:.2f} | {each.drafted}, {right} |"
        )
    return "\n".join(lines)
