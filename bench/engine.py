"""Measures the engine at one batch size and context after the other."""

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bench.machine import HostLoad, SideProcess, read_rates
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.device import Device
from lm_worker.assembly import EngineConfig, build_engine
from lm_worker.engine.sequence import SequenceRequest, TokenOutput
from lm_worker.model.layers import Shard
from lm_worker.model.model import kv_bytes_per_token
from lm_worker.step_timer import StepSeconds

_MAX_BATCHED_TOKENS = 512
_SINGLE = Shard(0, 1)


@dataclass(frozen=True, slots=True)
class Load:
    """One point of a sweep."""

    batch: int  # sequences decoded together
    context: int  # tokens of each prompt
    steps: int  # measured decode steps

    @property
    def max_tokens(self) -> int:
        """Enough for `steps` steps with all sequences, although prefills end one by one."""
        return self.steps + 2 + -(-self.batch * self.context // _MAX_BATCHED_TOKENS)


@dataclass(frozen=True, slots=True)
class Figures:
    """The measurements at one point."""

    dtype: str
    batch: int
    context: int
    prefill_tokens_s: float
    decode_tokens_s: float
    step_s: float  # median of the decode steps
    parts: StepSeconds  # of step_s, medians too
    step_bytes: int  # read by a step: the weights once, and the cache
    read_bytes_s: float  # memory bandwidth, before and after
    host_load: float | None  # cores that other processes used meanwhile

    @property
    def roofline_share(self) -> float:
        """The time of a step's reads at full bandwidth, over its measured time."""
        return self.step_bytes / self.read_bytes_s / self.step_s


@dataclass(frozen=True, slots=True)
class _Step:
    """A step that sampled tokens."""

    at: float
    tokens: int
    seconds: StepSeconds


class Bench:
    """An engine under measurement; its output is dropped."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: Device,
        dtype: str,
        loads: Sequence[Load],
        helper: SideProcess,
    ) -> None:
        self._spec = checkpoint.spec
        self._device = device
        self._dtype = dtype
        self._weight_bytes = device.bytes_of_a_step(checkpoint)
        lengths = [load.context + load.max_tokens for load in loads]
        blocks = max(
            load.batch * -(-length // device.block_size)
            for load, length in zip(loads, lengths, strict=True)
        )
        config = EngineConfig(
            blocks=blocks,
            max_num_seqs=max(load.batch for load in loads),
            max_batched_tokens=_MAX_BATCHED_TOKENS,
        )
        self._engine = build_engine(checkpoint, device, config, self)
        self._steps: list[_Step] = []
        self._left = 0
        self._done = asyncio.Event()
        self._numbers = itertools.count()
        self._helper = helper

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Bench"]:
        """The engine runs inside, its weights loaded; raises its errors."""
        try:
            await self._engine.start()
            running = asyncio.create_task(self._engine.run())
            running.add_done_callback(lambda _: self._done.set())
            yield self
            self._engine.stop()
            await running
        finally:
            self._engine.close()

    async def measure(self, load: Load) -> Figures:
        """Prefill all prompts at once, then decode them together."""
        self._steps.clear()
        self._left = load.batch
        self._done.clear()
        rates = self._helper.call(read_rates)
        host_load = HostLoad()
        start = time.perf_counter()
        for _ in range(load.batch):
            await self._engine.add(self._request(load), (), None)
        await self._done.wait()
        busy = host_load.cores()
        rates += self._helper.call(read_rates)
        return self._figures(load, start, statistics.median(rates), busy)

    def _figures(
        self, load: Load, start: float, read_bytes_s: float, host_load: float | None
    ) -> Figures:
        full = [step for step in self._steps if step.tokens == load.batch][: load.steps + 1]
        step_s = statistics.median(b.at - a.at for a, b in itertools.pairwise(full))
        parts = [b.seconds.since(a.seconds) for a, b in itertools.pairwise(full)]
        cached = load.batch * (load.context + load.steps // 2)
        return Figures(
            dtype=self._dtype,
            batch=load.batch,
            context=load.context,
            prefill_tokens_s=load.batch * load.context / (full[0].at - start),
            decode_tokens_s=load.batch / step_s,
            step_s=step_s,
            parts=StepSeconds(*map(statistics.median, zip(*parts, strict=True))),
            step_bytes=self._weight_bytes
            + cached * kv_bytes_per_token(self._spec, _SINGLE, self._device),
            read_bytes_s=read_bytes_s,
            host_load=host_load,
        )

    async def publish(self, outputs: Sequence[TokenOutput]) -> set[int]:
        """The engine's sink: notes the step."""
        self._steps.append(_Step(time.perf_counter(), len(outputs), self._engine.seconds))
        self._left -= sum(output.is_last for output in outputs)
        if self._left == 0:
            self._done.set()
        return set()

    def _request(self, load: Load) -> SequenceRequest:
        """A greedy request with a new prompt, so that the prefix cache does not help."""
        number = next(self._numbers)
        rng = random.Random(number)
        return SequenceRequest(
            request_id=f"bench-{number}",
            prompt_ids=tuple(
                rng.randrange(self._spec.first_special_id) for _ in range(load.context)
            ),
            image="",
            image_offset=-1,
            max_tokens=load.max_tokens,
            stop_ids=frozenset(),
        )
