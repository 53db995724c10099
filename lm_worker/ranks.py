"""Where plans are executed: the ranks of one tensor-parallel group behind one device thread."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from glm4v.tensor_bytes import TensorBytes
from lm_worker.plan import SampledToken, StepPlan
from lm_worker.runner import Runner

_T = TypeVar("_T")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Ranks:
    """Runs one step at a time in a named thread, so that the event loop stays free."""

    def __init__(self, load: Callable[[], Runner]) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="device")
        self._load = load
        self._runner: Runner | None = None
        self.started = asyncio.Event()

    async def start(self) -> None:
        """Load the weights; raises CheckpointError."""
        self._runner = await self._call(self._load)
        self.started.set()

    async def execute(self, plan: StepPlan) -> tuple[SampledToken, ...]:
        """One forward pass."""
        return await self._call(self._ready.execute, plan)

    async def add_picture(self, digest: str, rows: TensorBytes) -> None:
        """Keep a picture's rows until `drop_picture`."""
        await self._call(self._ready.add_picture, digest, to_tensor(rows))

    async def drop_picture(self, digest: str) -> None:
        """Forget a picture's rows."""
        await self._call(self._ready.drop_picture, digest)

    @property
    def progress(self) -> int:
        """Layers computed so far."""
        return self._ready.layers_done

    def close(self) -> None:
        """Let the step in progress end, and no other begin."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    @property
    def _ready(self) -> Runner:
        assert self._runner is not None, "start() comes first"
        return self._runner

    async def _call(self, function: Callable[..., _T], *args: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)


def to_tensor(packed: TensorBytes) -> torch.Tensor:
    """The tensor in the bytes, on the host; shares their memory when it may be written to."""
    data = bytearray(packed.data)
    return torch.frombuffer(data, dtype=_DTYPES[packed.dtype]).view(packed.shape)
