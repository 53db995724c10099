"""Requests through a whole engine, without Redis."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.device import DeviceOptions, open_device
from glm4v.device.arbiter import Arbiter
from glm4v.tensor_bytes import TensorBytes
from lm_worker.assembly import EngineConfig, build_engine
from lm_worker.engine.engine import Engine
from lm_worker.engine.publications import OutputSink
from lm_worker.engine.scheduler import Scheduler
from lm_worker.engine.sequence import SequenceRequest, TokenOutput
from lm_worker.parallel.group import RankConfig, RankProcesses
from lm_worker.parallel.ranks import Ranks
from lm_worker.plan import OutputFormat, SampledToken, SamplingParams
from tests.parity.golden_plans import Golden, cases

GOLDEN_TOKENS = 20
FORM = OutputFormat("regex", "[a-z]{2,9}( [0-9]{1,3})*")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request with its image embedding."""

    request: SequenceRequest
    image: TensorBytes | None


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes of an engine; none may change its output."""

    max_batched_tokens: int = 64
    block_size: int = 16
    blocks: int = 600
    max_num_seqs: int = 64
    prefix_cache: bool = True
    prefill_slowdown: float = 2.0
    drafts: bool = False


@dataclass
class Answers:
    """A sink: output by request."""

    tokens: dict[str, list[int]] = field(default_factory=dict)
    sampled: dict[str, list[SampledToken]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    ended: dict[str, asyncio.Event] = field(default_factory=dict)

    async def publish(self, tokens: Sequence[TokenOutput]) -> set[int]:
        """Keep the tokens in order."""
        for token in tokens:
            if token.error is None:
                answer = self.tokens.setdefault(token.request_id, [])
                assert token.index == len(answer)
                answer.append(token.sampled.token_id)
                self.sampled.setdefault(token.request_id, []).append(token.sampled)
            else:
                self.errors[token.request_id] = str(token.error)
            if token.is_last:
                self.ended[token.request_id].set()
        return set()


def ask(golden: Golden, case: str, boi_id: int) -> Asked:
    """The case's prompt as a greedy request for the golden tokens."""
    ids = tuple(int(i) for i in golden[f"{case}/input_ids"])
    image = None
    if f"{case}/vision_embeddings" in golden:
        rows = golden[f"{case}/vision_embeddings"].astype(np.float32)
        image = TensorBytes("float32", rows.shape, rows.tobytes())
    request = SequenceRequest(
        request_id=case,
        prompt_ids=ids,
        image="" if image is None else f"image of {case}",
        image_offset=-1 if image is None else ids.index(boi_id),
        max_tokens=GOLDEN_TOKENS,
        stop_ids=frozenset(),
    )
    return Asked(request, image)


def mixed(golden: Golden, boi_id: int, count: int) -> list[Asked]:
    """Requests of all cases, every other one sampled, of several lengths, some with a form."""
    asked = [ask(golden, case, boi_id) for case in cases(golden)]
    requests = []
    for number in range(count):
        one = asked[number % len(asked)]
        name = f"{number}:{one.request.request_id}"
        request = replace(one.request, request_id=name, priority=1 + number % 5)
        if number % 2:
            request = replace(
                request,
                sampling=SamplingParams(
                    temperature=1.0,
                    seed=2**40 + number,
                    top_k=(0, 50)[number % 4 // 2],
                    repetition_penalty=(1.0, 1.1)[number % 8 // 4],
                ),
                max_tokens=10 + number % 20,
                output_format=FORM if number % 6 == 5 else None,
            )
        requests.append(replace(one, request=request))
    return requests


def engine_of(
    folder: Path,
    layout: Layout,
    sink: OutputSink,
    rank: RankConfig | None = None,
    timeout_s: float = 60.0,
    arbiter: Arbiter | None = None,
) -> Engine:
    """An engine of the checkpoint in `folder`."""
    config = EngineConfig(
        blocks=layout.blocks,
        max_num_seqs=layout.max_num_seqs,
        max_batched_tokens=layout.max_batched_tokens,
        block_size=layout.block_size,
        prefill_slowdown=layout.prefill_slowdown,
        prefix_cache=layout.prefix_cache,
        drafts=layout.drafts,
        rank=rank,
        rank_timeout_s=timeout_s,
    )
    device = open_device(DeviceOptions("cpu", "float32"))
    return build_engine(Checkpoint.open(folder), device, config, sink, arbiter)


@dataclass
class Running:
    """A running engine and its output."""

    engine: Engine
    answers: Answers
    stepping: "asyncio.Task[None]"

    @property
    def ranks(self) -> Ranks:
        """The engine's ranks."""
        return self.engine.ranks

    @property
    def scheduler(self) -> Scheduler:
        """The engine's scheduler."""
        return self.engine.scheduler

    async def answer(self, requests: Sequence[Asked]) -> dict[str, list[int]]:
        """The output of requests that are added together."""
        for one in requests:
            self.answers.ended[one.request.request_id] = asyncio.Event()
            await self.engine.add(one.request, (), one.image)
        names = [one.request.request_id for one in requests]
        ended = asyncio.create_task(self._all_ended(names))
        await asyncio.wait({ended, self.stepping}, return_when=asyncio.FIRST_COMPLETED)
        if self.stepping.done():
            ended.cancel()
            await self.stepping  # raises why
        return {name: self.answers.tokens.pop(name, []) for name in names}

    async def _all_ended(self, names: Sequence[str]) -> None:
        for name in names:
            await self.answers.ended[name].wait()


@asynccontextmanager
async def running(
    folder: Path,
    layout: Layout,
    rank: RankConfig | None = None,
    timeout_s: float = 60.0,
    answers: Answers | None = None,
    arbiter: Arbiter | None = None,
) -> AsyncIterator[Running]:
    """An engine that steps until the block ends; every cache block is free again by then."""
    answers = answers or Answers()
    engine = engine_of(folder, layout, answers, rank, timeout_s, arbiter)
    await engine.start()
    run = Running(engine, answers, asyncio.create_task(engine.run()))
    try:
        yield run
        engine.stop()
        await run.stepping
        assert run.scheduler.check_integrity() == []
        assert run.scheduler.pool.available == layout.blocks
    finally:
        run.stepping.cancel()
        engine.close()


@contextmanager
def rank_processes(folder: Path, size: int) -> Iterator[RankConfig]:
    """Rank 0 of a group of `size`, for `running`; the others are processes of one thread."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("GLM4V_MODEL", str(folder))
        environment.setenv("GLM4V_DTYPE", "float32")
        environment.setenv("GLM4V_THREADS", "1")
        environment.setenv("GLM4V_TENSOR_PARALLEL", str(size))
        ranks = RankProcesses(size)
        try:
            yield ranks.config
        finally:
            ranks.stop(told=True)
