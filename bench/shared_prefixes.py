"""What callers with one image and one system text compute when they ask at the same instant.

    python -m bench.shared_prefixes --block-size 128 --rounds 5

Through the language engine alone, over random weights: the image's embedding is given, each caller
has a question of its own.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.model import write_medium
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.spec import ModelSpec
from glm4v.device import Device, DeviceOptions, open_device
from glm4v.host.temporary_folder import TemporaryFolder
from glm4v.tensor_bytes import TensorBytes
from lm_worker.assembly import EngineConfig, build_engine
from lm_worker.engine.engine import Engine
from lm_worker.engine.sequence import SequenceRequest, TokenOutput

SYSTEM_TOKENS = 60
QUESTION_TOKENS = 12


@dataclass(frozen=True, slots=True)
class Figures:
    """One round of callers."""

    callers: int
    prompt_tokens: int  # of each
    computed_tokens: int  # of all
    time_to_first_token_s: tuple[float, ...]  # of each caller, in order of time

    @property
    def work(self) -> float:
        """Computed tokens, as a multiple of one prompt."""
        return self.computed_tokens / self.prompt_tokens


@dataclass
class FirstTokens:
    """A sink: when each request had its token."""

    at: list[float] = field(default_factory=list)
    waiting: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def publish(self, tokens: Sequence[TokenOutput]) -> set[int]:
        """Note the time."""
        self.at += [time.perf_counter()] * len(tokens)
        if len(self.at) == self.waiting:
            self.done.set()
        return set()


def requests(spec: ModelSpec, callers: int, seed: int) -> list[SequenceRequest]:
    """One system text and image, a question for each; unlike those of every other seed."""
    rng = random.Random(seed)

    def words(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(spec.first_special_id) for _ in range(count))

    beginning = (*words(SYSTEM_TOKENS), spec.boi_id, 0, spec.eoi_id)
    return [
        SequenceRequest(
            request_id=f"{seed}:{number}",
            prompt_ids=(*beginning, *words(QUESTION_TOKENS)),
            image=f"image {seed}",
            image_offset=SYSTEM_TOKENS,
            max_tokens=1,
            stop_ids=frozenset(),
            client=f"caller {number}",
        )
        for number in range(callers)
    ]


async def ask(
    engine: Engine, sink: FirstTokens, spec: ModelSpec, callers: int, seed: int
) -> Figures:
    """All callers at once; until each has its first token."""
    shape = (spec.vision.num_image_tokens, spec.hidden_size)
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    image = TensorBytes("float32", shape, values.tobytes())
    before = engine.counts.computed_tokens
    sink.at, sink.waiting = [], callers
    sink.done.clear()
    asked = requests(spec, callers, seed)
    start = time.perf_counter()
    for request in asked:
        await engine.add(request, (), image)
    await sink.done.wait()
    return Figures(
        callers,
        SYSTEM_TOKENS + spec.vision.num_image_tokens + QUESTION_TOKENS,
        engine.counts.computed_tokens - before,
        tuple(at - start for at in sink.at),
    )


async def measure(
    checkpoint: Checkpoint, device: Device, options: argparse.Namespace
) -> list[Figures]:
    """Rounds of callers, each with an image, a system text and questions of its own."""
    spec, callers = checkpoint.spec, options.callers
    longest = SYSTEM_TOKENS + spec.vision.num_image_tokens + QUESTION_TOKENS + 1
    block_size = options.block_size or device.block_size
    config = EngineConfig(
        blocks=callers * -(-longest // block_size),
        max_num_seqs=callers,
        max_batched_tokens=512,
        block_size=block_size,
        prefix_cache=not options.no_prefix_cache,
    )
    sink = FirstTokens()
    engine = build_engine(checkpoint, device, config, sink)
    try:
        await engine.start()
        running = asyncio.create_task(engine.run())
        figures = [await ask(engine, sink, spec, callers, seed) for seed in range(options.rounds)]
        engine.stop()
        await running
    finally:
        engine.close()
    return figures


def main() -> None:
    """Print one JSON object: work of each round, and medians of times."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.shared_prefixes", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--model", type=Path, help="a checkpoint; else a random one")
    parser.add_argument("--block-size", type=int, default=0, help="tokens; 0: the device's")
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-prefix-cache", action="store_true", help="share nothing")
    options = parser.parse_args()
    with TemporaryFolder("bench") as folder:
        if (model := options.model) is None:
            write_medium(model := folder / "medium", image_size=1120)  # 1602 tokens
        device = open_device(DeviceOptions("cpu", "float32"))
        figures = asyncio.run(measure(Checkpoint.open(model), device, options))
    sys.stdout.write(f"{json.dumps(_summary(figures))}\n")


def _summary(figures: Sequence[Figures]) -> dict[str, object]:
    median = statistics.median
    return {
        "work": [round(each.work, 3) for each in figures],
        "first_caller_s": round(median(each.time_to_first_token_s[0] for each in figures), 3),
        "median_caller_s": round(median(median(each.time_to_first_token_s) for each in figures), 3),
        "last_caller_s": round(median(each.time_to_first_token_s[-1] for each in figures), 3),
    }


if __name__ == "__main__":
    main()
