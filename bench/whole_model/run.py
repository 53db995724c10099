"""Starts a whole system, asks one question about an image, and measures how that went."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench.serve.images import ImageFiles
from bench.whole_model.memory import Peak, PeakMemory
from glm4v.client.async_client import AsyncClient
from glm4v.client.messages import user_message
from glm4v.local.cluster import ClusterSettings, LocalCluster
from glm4v.v1 import inference_pb2 as api

_PROCESSES = ("redis", "gateway", "vision_worker", "lm_worker")
_READY = "INFO glm4v.process.service ready on "  # as a process logs it
_SIDE = 1120  # pixels of the image
_START_TIMEOUT_S = 3600.0
_ANSWER_TIMEOUT_S = 3600.0


@dataclass(slots=True)
class Outcome:
    """What was measured."""

    load_s: dict[str, float] = field(default_factory=dict)  # by process, until it was ready
    peaks: dict[str, Peak] = field(default_factory=dict)  # by process
    timings: api.Timings = field(default_factory=api.Timings)
    token_ids: list[int] = field(default_factory=list)


class WholeRun:
    """One system and one question. `show` hears each line of the processes."""

    def __init__(
        self, model: Path, environment: dict[str, str], show: Callable[[str], None]
    ) -> None:
        self._outcome = Outcome()
        self._show = show
        self._began = 0.0
        settings = ClusterSettings(
            model, environment=environment, restart=False, start_timeout_s=_START_TIMEOUT_S
        )
        self._cluster = LocalCluster(settings, self._take)

    async def measure(self, tokens: int) -> Outcome:
        """Start, ask for an answer of so many tokens, and stop.

        Raises the errors of `LocalCluster` and of the client.
        """
        memory = PeakMemory(self._processes)
        self._began = time.monotonic()
        watching = asyncio.create_task(memory.watch())
        try:
            async with self._cluster as cluster:
                await self._ask(cluster.target, tokens)
        finally:
            watching.cancel()
        self._outcome.peaks = memory.peaks
        return self._outcome

    async def _ask(self, target: str, tokens: int) -> None:
        image = await ImageFiles(_SIDE, seed=0).file(0)
        async with AsyncClient(target) as client:
            question = user_message("What is this?", image)
            generation = client.generate(
                [question],
                temperature=0.0,
                max_tokens=tokens,
                ignore_eos=True,
                timeout_s=_ANSWER_TIMEOUT_S,
            )
            async with generation as answer:
                async for _ in answer:
                    pass
                assert answer.finished is not None, "the stream ended with the answer"
                self._outcome.timings = answer.finished.timings
                self._outcome.token_ids = list(answer.token_ids)

    def _processes(self) -> dict[str, int]:
        """Ids of the processes that have been started."""
        started = {}
        for name in _PROCESSES:
            with suppress(KeyError):
                started[name] = self._cluster.process(name).pid
        return started

    def _take(self, name: str, line: str) -> None:
        if _READY in line:
            self._outcome.load_s.setdefault(name, time.monotonic() - self._began)
        self._show(f"{name} | {line}")
