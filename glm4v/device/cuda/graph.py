"""Records what a function launches, to launch it again at once."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol

import torch


class Recording(Protocol):
    """A function over tensors that keep their places."""

    def replay(self) -> torch.Tensor:
        """What the function gives for what its tensors hold now; valid until any next replay."""


class RepeatedCalls(Recording):
    """Calls the function again: for devices without graphs, on which tests run."""

    def __init__(self, compute: Callable[[], torch.Tensor]) -> None:
        self._compute = compute

    def replay(self) -> torch.Tensor:
        """Compute."""
        return self._compute()


class CudaGraphs:
    """Graphs that share one pool of memory: only the last replay's output is still valid."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Calls of other threads, such as NCCL's watchdog, do not concern a recording.
        self._capture = partial(
            torch.cuda.graph,
            pool=torch.cuda.graph_pool_handle(),
            capture_error_mode="thread_local",
        )

    def record(self, compute: Callable[[], torch.Tensor]) -> Recording:
        """Call the function once, as a warm-up, and record it.

        Streams belong to the current device, and each thread has its own.
        """
        with torch.cuda.device(self._device):
            return _CudaGraph(compute, self._capture)


class _CudaGraph(Recording):
    def __init__(
        self,
        compute: Callable[[], torch.Tensor],
        capture: Callable[[torch.cuda.CUDAGraph], AbstractContextManager[None]],
    ) -> None:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            compute()  # libraries are set up, which cannot be recorded
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with capture(self._graph):
            self._output = compute()

    def replay(self) -> torch.Tensor:
        """Launch the graph."""
        self._graph.replay()
        return self._output
