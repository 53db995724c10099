"""This project's part of `python -m bench.gpu`: prefill, decode and vision, without Redis."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from bench.geometry import RandomWeights
from glm4v.checkpoint.spec import ModelSpec
from glm4v.device import Device
from glm4v.device.collectives import SingleRank
from lm_worker.model.layers import Shard
from lm_worker.model.model import LanguageModel
from lm_worker.model.runner import Runner
from lm_worker.plan import Chunk, SamplingParams, SamplingState, StepPlan
from vision_worker.model import VisionModel

_ALONE = Shard(0, 1)
_GREEDY = SamplingState(SamplingParams(), index=0)
WARM_UP = 3  # calls before those that are measured: graphs are recorded, libraries set up


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    """The median duration of a call whose result is on the host."""
    for _ in range(WARM_UP):
        call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


class OurLanguageModel:
    """The language model of one rank, its cache large enough for `batch` sequences."""

    def __init__(self, spec: ModelSpec, device: Device, *, batch: int, context: int) -> None:
        self._context = context
        self._blocks = -(-(context + 1) // device.block_size)
        with torch.inference_mode():
            weights = RandomWeights(spec, device)
            model = LanguageModel(spec, weights, device, SingleRank(), _ALONE)
        attention = device.paged_attention()
        attention.allocate(
            layers=spec.layers,
            blocks=batch * self._blocks,
            block_size=device.block_size,
            kv_heads=spec.kv_heads,
            head_dim=spec.head_dim,
        )
        self._runner = Runner(model, device, attention, spec)

    def prefill(self, chunk: int) -> None:
        """One prompt of `context` tokens in chunks, up to its first token."""
        for start in range(0, self._context, chunk):
            self._execute(self._chunk(0, start, min(start + chunk, self._context)))

    def decode(self, batch: int) -> None:
        """One token for each of `batch` sequences behind `context` tokens of an empty cache."""
        context = self._context
        self._execute(*(self._chunk(number, context, context + 1) for number in range(batch)))

    def _execute(self, *chunks: Chunk) -> None:
        self._runner.execute(StepPlan(0, chunks))

    def _chunk(self, number: int, start: int, end: int) -> Chunk:
        first = number * self._blocks
        return Chunk(
            sequence_id=number,
            token_ids=tuple(token % 1000 for token in range(start, end)),
            positions=tuple(range(start, end)),
            context_len=start,
            block_table=tuple(range(first, first + self._blocks)),
            image="",
            sampling=_GREEDY if end >= self._context else None,
        )


class OurVisionModel:
    """The vision tower and the adapter."""

    def __init__(self, spec: ModelSpec, device: Device) -> None:
        with torch.inference_mode():
            self._model = VisionModel(spec, RandomWeights(spec, device), device)
        size = spec.vision.image_size
        self._pixels = torch.zeros(1, 3, size, size, dtype=device.dtype, device=device.torch_device)

    def encode(self) -> None:
        """One image, its embedding copied to the host."""
        self._model.encode(self._pixels, lambda: None).cpu()


@contextmanager
def memory_taken(device: Device, into: list[int]) -> Iterator[None]:
    """Append the bytes of the device that what happens inside takes."""
    before = device.free_memory_bytes()
    yield
    into.append(before - device.free_memory_bytes())
