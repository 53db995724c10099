"""The device of this process, and the other ranks of a tensor-parallel group on this host."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.device import Device, DeviceOptions, open_device
from lm_worker.engine.engine import Engine
from lm_worker.parallel.group import RankConfig, RankProcesses


@dataclass(frozen=True, slots=True)
class Hardware:
    """What to compute with; the names are those of the settings of a language worker."""

    device: str = "auto"
    dtype: str = "auto"
    weight_dtype: str = "auto"
    threads: int = 0
    tensor_parallel: int = 1


Unless = Callable[[Awaitable[None]], Awaitable[None]]


class RankGroup:
    """Starts the ranks above 0 as processes; `running` drives an engine with all of them.

    Attributes:
        device: Of rank 0's part of the language model; rank 0 is this process.
        vision_device: The same, with the dtype of the vision tower's weights.
        config: Its place in the group; None for a group of one.
    """

    def __init__(self, checkpoint: Checkpoint, hardware: Hardware) -> None:
        """Raise ConfigurationError if the model or the device does not allow this hardware."""
        size = hardware.tensor_parallel
        checkpoint.spec.check_ranks(size)
        self.device = _open(checkpoint, hardware, vision=False)
        self.vision_device = _open(checkpoint, hardware, vision=True)
        self._processes: RankProcesses | None = None
        self.config: RankConfig | None = None
        if size > 1:
            self._processes = RankProcesses(size, environment=_settings(checkpoint, hardware))
            self.config = self._processes.config

    @asynccontextmanager
    async def running(self, engine: Engine) -> AsyncIterator[Unless]:
        """Inside, the engine runs; the value awaits work, and raises if engine or ranks fail."""
        tasks: list[asyncio.Task[None]] = []
        told = False
        try:
            await engine.start()
            tasks.append(asyncio.create_task(engine.run()))
            if self._processes is not None:
                tasks.append(asyncio.create_task(engine.ranks.heartbeat()))
                tasks.append(asyncio.create_task(self._processes.watch()))

            async def unless_failed(work: Awaitable[None]) -> None:
                waiting = asyncio.ensure_future(work)
                await asyncio.wait({waiting, *tasks}, return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done():
                    waiting.cancel()
                for task in (*tasks, waiting):
                    if task.done():
                        task.result()

            yield unless_failed
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            told = engine.close()
            if self._processes is not None:
                self._processes.stop(told=told)


def _open(checkpoint: Checkpoint, hardware: Hardware, *, vision: bool) -> Device:
    return open_device(
        DeviceOptions(
            hardware.device,
            hardware.dtype,
            hardware.weight_dtype,
            hardware.threads,
            is_bfloat16=checkpoint.is_bfloat16(vision=vision),
            quantized_by="" if vision else checkpoint.quantized_by,
            local_size=hardware.tensor_parallel,
            group_size=hardware.tensor_parallel,
        )
    )


def _settings(checkpoint: Checkpoint, hardware: Hardware) -> dict[str, str]:
    """The environment of the other ranks."""
    return {
        **os.environ,
        "GLM4V_MODEL": str(checkpoint.directory),
        "GLM4V_DEVICE": hardware.device,
        "GLM4V_DTYPE": hardware.dtype,
        "GLM4V_WEIGHT_DTYPE": hardware.weight_dtype,
        "GLM4V_THREADS": str(hardware.threads),
        "GLM4V_TENSOR_PARALLEL": str(hardware.tensor_parallel),
    }
