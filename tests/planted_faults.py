"""Mistakes that a backend or a port of the model may make, planted into this process.

Each is a context manager, and changes a model that is loaded inside.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.nn import functional

from glm4v.checkpoint.spec import ModelSpec
from glm4v.device import Device
from glm4v.device.cpu.device import CpuDevice
from glm4v.device.linear import Epilogue, Linear
from glm4v.images import ImageLimits
from glm4v.images.pixels import decode
from lm_worker.engine.sequence import SequenceState
from lm_worker.plan import Chunk
from vision_worker.decoders import Decoders, Pixels
from vision_worker.model import TorchVisionLayer
from vision_worker.preprocess import normalised


class _TanhGelu(Linear):
    def __init__(self, linear: Linear) -> None:
        self._linear = linear

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return functional.gelu(self._linear(x), approximate="tanh")


@contextmanager
def _layers_in_torch() -> Iterator[None]:
    """The tower's layers one operation at a time on the CPU too."""
    with patch.object(CpuDevice, "vision_layer", Device.vision_layer):
        yield


@contextmanager
def tanh_gelu() -> Iterator[None]:
    """The approximation of GELU by tanh in the vision tower, on the CPU."""
    linear = CpuDevice.linear

    def changed(
        device: CpuDevice,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        *,
        epilogue: Epilogue = "none",
    ) -> Linear:
        if epilogue == "gelu":
            return _TanhGelu(linear(device, weight, bias))
        return linear(device, weight, bias, epilogue=epilogue)

    with _layers_in_torch(), patch.object(CpuDevice, "linear", changed):
        yield


@contextmanager
def consecutive_positions() -> Iterator[None]:
    """A position of its own for each patch of an image."""
    decode_chunk = SequenceState.decode_chunk

    def changed(state: SequenceState) -> Chunk:
        chunk = decode_chunk(state)
        chunk.positions = (chunk.context_len,)
        return chunk

    def positions(state: SequenceState, start: int, end: int) -> tuple[int, ...]:
        return tuple(range(start, end))

    with (
        patch.object(SequenceState, "positions", positions),
        patch.object(SequenceState, "decode_chunk", changed),
    ):
        yield


@contextmanager
def rotary_everywhere() -> Iterator[None]:
    """All dimensions of a head rotated, not the first half."""
    with patch.object(ModelSpec, "rotary_dim", property(lambda spec: spec.head_dim)):
        yield


@contextmanager
def norm_of_the_sum() -> Iterator[None]:
    """The tower's norms after the residual is added, as in the first transformers."""

    def changed(block: Any, x: torch.Tensor) -> torch.Tensor:
        x = block._attention_norm(x + block._attention(x))
        result: torch.Tensor = block._mlp_norm(x + block._mlp(x))
        return result

    with _layers_in_torch(), patch.object(TorchVisionLayer, "__call__", changed):
        yield


@contextmanager
def aliased_resizing() -> Iterator[None]:
    """Images resized by torch's bicubic interpolation, which does not smooth."""

    async def changed(decoders: Any, data: bytes) -> Pixels:
        size = decoders._size
        image = np.array(decode(data, ImageLimits()))
        channels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        resized = functional.interpolate(channels, size=(size, size), mode="bicubic")
        rgb = resized[0].round().clamp(0, 255).byte().permute(1, 2, 0).contiguous()
        return normalised(rgb.numpy().tobytes(), size)

    with patch.object(Decoders, "decode_quick", changed):
        yield


Fault = Callable[[], AbstractContextManager[None]]

SMALL: tuple[Fault, ...] = (tanh_gelu, aliased_resizing)  # below the rounding of 16 bits
LARGE: tuple[Fault, ...] = (consecutive_positions, rotary_everywhere, norm_of_the_sum)
