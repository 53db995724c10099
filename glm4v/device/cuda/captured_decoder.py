"""Decode steps recorded once and replayed, which spares the host 40 launches for each layer."""

from collections.abc import Callable, Sequence

import torch

from glm4v.device.base import Attention, AttentionSegment, Decoder
from glm4v.device.cuda.attention import CudaAttention
from glm4v.device.cuda.decode_inputs import room_for
from glm4v.device.cuda.graph import Recording

LARGEST_BATCH = 64  # of a recorded step; larger ones are launched one operator after the other


class CapturedDecoder(Decoder):
    """`plain` layers; a decode step of n sequences is padded to a power of two and replayed.

    `record` makes a recording of a function. There is one for each number of sequences and room
    for their contexts, made when it is first needed.
    """

    def __init__(
        self, plain: Decoder, record: Callable[[Callable[[], torch.Tensor]], Recording]
    ) -> None:
        self._plain = plain
        self._record = record
        self._attention: CudaAttention | None = None  # whose cache the recordings use
        self._steps: dict[tuple[range, int, int], _FixedStep] = {}
        self._layers_replayed = 0
        self._layers_recorded = 0

    @property
    def layers_done(self) -> int:
        """Layers computed since the start."""
        return self._plain.layers_done - self._layers_recorded + self._layers_replayed

    def run(
        self,
        layers: range,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        attention: Attention,
        needed: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[tokens, hidden] -> the same, or [needed, hidden]; valid until the next step."""
        if not isinstance(attention, CudaAttention):
            raise TypeError(f"attention of another device: {attention!r}")
        segments = attention.decode_segments
        if not 0 < len(segments) <= LARGEST_BATCH:
            return self._plain.run(layers, hidden, positions, attention, needed)
        if attention is not self._attention:
            self._attention, self._steps = attention, {}
        size = 1 << (len(segments) - 1).bit_length()
        key = (layers, size, room_for(segments))
        step = self._steps.get(key)
        if step is None:
            step = self._steps[key] = _FixedStep(*key, hidden, self._plain, attention)
        step.fill(hidden, positions, segments)
        done = self._plain.layers_done
        output = step.replay(self._record)[: len(segments)]
        self._layers_recorded += self._plain.layers_done - done
        self._layers_replayed += len(layers)
        return output if needed is None else output[needed]


class _FixedStep:
    """A decode step whose inputs keep their places in memory."""

    def __init__(
        self,
        layers: range,
        size: int,
        room: int,
        like: torch.Tensor,
        plain: Decoder,
        attention: CudaAttention,
    ) -> None:
        self._layers = layers
        self._plain = plain
        self._attention = attention
        self._hidden = like.new_zeros((size, like.shape[1]))
        self._positions = torch.zeros(size, dtype=torch.int64, device=like.device)
        self._inputs = attention.decode_inputs(size, room)
        self._recording: Recording | None = None

    def fill(
        self, hidden: torch.Tensor, positions: torch.Tensor, segments: Sequence[AttentionSegment]
    ) -> None:
        """Take a step of at most `size` sequences; the other rows keep what they had."""
        self._hidden[: len(hidden)] = hidden
        self._positions[: len(positions)] = positions
        self._inputs.fill(segments)

    def replay(self, record: Callable[[Callable[[], torch.Tensor]], Recording]) -> torch.Tensor:
        """[size, hidden] after the layers. The first time it is recorded as well."""
        if self._recording is None:
            self._recording = record(self._compute)
        return self._recording.replay()

    def _compute(self) -> torch.Tensor:
        self._attention.use(self._inputs)
        # A layer may change its input, which the next replay must find as it was filled.
        return self._plain.run(self._layers, self._hidden.clone(), self._positions, self._attention)
