"""Decode steps captured once and replayed, which spares the host the launch of every operator.

A graph is captured for 1, 2, 4, … sequences. Its inputs are tensors of its own, filled before a
replay; a step with fewer sequences fills the rest with rows that read and write the spare block.
Lengths are not tensors but numbers on the host, which a capture keeps: each replay is preceded by
an update of them.
"""

from typing import Protocol

import torch
import torch_npu

from glm4v.device.npu.attention import NpuAttention
from glm4v.device.npu.chip import BLOCK_SIZE
from glm4v.device.npu.step import Step

MAX_BATCH = 64  # of a captured step; larger ones are computed operator by operator
MAX_BLOCKS = 128  # of a sequence: 16384 tokens, more than the model's context


class Compute(Protocol):
    """All layers over [tokens, hidden], with cosines and sines [tokens, 1, 128]."""

    def __call__(
        self,
        hidden: torch.Tensor,
        cosine: torch.Tensor,
        sine: torch.Tensor,
        attention: NpuAttention,
    ) -> torch.Tensor: ...


class DecodeGraphs:
    """The graphs of one decoder, captured when they are first needed."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._attention: NpuAttention | None = None  # whose cache the graphs write to
        self._graphs: dict[int, _DecodeGraph] = {}

    def run(
        self,
        hidden: torch.Tensor,
        cosine: torch.Tensor,
        sine: torch.Tensor,
        attention: NpuAttention,
    ) -> torch.Tensor | None:
        """[sequences, hidden] -> the same, valid until the next step; None: no step for a graph."""
        step = attention.step
        fits = len(step.slots) <= MAX_BATCH and step.block_table.shape[1] <= MAX_BLOCKS
        if not (step.is_decode and fits):
            return None
        if attention is not self._attention:
            self._attention, self._graphs = attention, {}
        size = 1 << (len(step.slots) - 1).bit_length()
        if size not in self._graphs:
            graph = _DecodeGraph(size, hidden, cosine, attention.spare_block)
            graph.capture(self._compute, attention)
            self._graphs[size] = graph
        return self._graphs[size].replay(hidden, cosine, sine, step)


class _DecodeGraph:
    """One captured step with the tensors it reads."""

    def __init__(
        self, size: int, hidden: torch.Tensor, cosine: torch.Tensor, spare_block: int
    ) -> None:
        self._hidden = hidden.new_zeros((size, *hidden.shape[1:]))
        self._cosine = cosine.new_zeros((size, *cosine.shape[1:]))
        self._sine = torch.zeros_like(self._cosine)
        slots = torch.arange(size, dtype=torch.int32) + spare_block * BLOCK_SIZE
        table = torch.full((size, MAX_BLOCKS), spare_block, dtype=torch.int32)
        self._spare_slots = slots.to(hidden.device)
        self._step = Step(
            self._spare_slots.clone(), table.to(hidden.device), [1] * size, [1] * size
        )
        self._graph = torch_npu.npu.NPUGraph()
        self._output = self._hidden

    def capture(self, compute: Compute, attention: NpuAttention) -> None:
        """Record all layers; the sequences of the step at hand are not touched."""
        prepared, attention.step = attention.step, self._step
        inputs = (self._hidden, self._cosine, self._sine, attention)
        compute(*inputs)  # once outside: kernels are set up and memory is taken
        with torch_npu.npu.graph(self._graph, auto_dispatch_capture=True):
            self._output = compute(*inputs)
        attention.step = prepared

    def replay(
        self, hidden: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, step: Step
    ) -> torch.Tensor:
        """[sequences, hidden] -> the same."""
        count = len(hidden)
        self._hidden[:count] = hidden
        self._cosine[:count] = cosine
        self._sine[:count] = sine
        own, width = self._step, step.block_table.shape[1]
        own.slots.copy_(self._spare_slots)
        own.slots[:count] = step.slots
        # Rows that are left keep the table of an earlier step: what they read is used by nobody.
        own.block_table[:count, :width] = step.block_table
        lengths = step.context_lens + [1] * (len(own.slots) - count)
        self._graph.update(cpu_update_input=[{"actual_seq_lengths_kv": lengths}])
        self._graph.replay()
        return self._output[:count]
