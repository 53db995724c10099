"""Images through the vision model, one on the device while the next ones are decoded.

decoders  | image 1 | image 2 | image 3 |
device                | 1         | 2         | 3         |

Decoding is done in other processes; an image that takes long there goes aside (see `decoders`).

A caller that goes (its task is cancelled) takes its image along: before the device stage it is
skipped, in it the device stops at the next layer.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import torch

from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.loading import Loading
from glm4v.checkpoint.weights import Weights
from glm4v.device import Device
from glm4v.device.arbiter import Arbiter, NoArbiter
from glm4v.device.device_thread import DeviceThread
from glm4v.host.out_of_memory import out_of_memory_as_overloaded
from glm4v.tensor_bytes import TensorBytes
from vision_worker.decoders import Decoders, Pixels, TakesLong
from vision_worker.model import VisionModel

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_END_S = 10.0
_NO_MEMORY = "the vision worker has not enough memory for its weights; free some"
_NO_MEMORY_FOR_IMAGE = (
    "the vision worker has not enough memory left for this image; send it scaled down, or try "
    "again later"
)


class Encoder:
    """One device and the model on it; an error reaches the caller it belongs to, nobody else.

    Memory stays bounded however many callers there are: one image is on the device, and at most
    `quick` others are being decoded or wait for it, those aside left out.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: Device,
        decoders: Decoders,
        *,
        arbiter: Arbiter | None = None,
    ) -> None:
        self._checkpoint = checkpoint
        self._device = device
        self._decoders = decoders
        self._arbiter = arbiter or NoArbiter()
        self._device_thread = DeviceThread()
        self._room = asyncio.Semaphore(decoders.quick + 1)
        self._model: VisionModel | None = None
        self.images_decoded = 0  # written by the event loop
        self.images_encoded = 0
        self._layers_done = 0  # written by the device thread
        self.started = asyncio.Event()

    async def start(self) -> None:
        """Read the weights; raises CheckpointError, Overloaded without memory for them."""
        with out_of_memory_as_overloaded(_NO_MEMORY, self._device.is_out_of_memory):
            self._decoders.start()
            await self._device_thread.call(self._load)
        self.started.set()

    @property
    def progress(self) -> int:
        """Grows with every image decoded and every layer computed, and while one is aside."""
        return self.images_decoded + self._layers_done + self._decoders.progress

    @property
    def aside(self) -> int:
        """How many images are aside, in nobody's way."""
        return self._decoders.aside

    async def encode(self, data: bytes) -> TensorBytes:
        """An image file -> its rows in the language model, [embedding rows, hidden] on the host.

        Raises InvalidRequest for an image that cannot be decoded, Overloaded when there is not
        enough memory.
        """
        gone = threading.Event()
        try:
            async with self._room:
                with suppress(TakesLong):
                    return await self._on_device(
                        await self._translate_oom(self._decoders.quickly(data)), gone
                    )
            pixels = await self._translate_oom(self._decoders.slowly(data))
            async with self._room:
                return await self._on_device(pixels, gone)
        finally:
            gone.set()

    async def _on_device(self, pixels: Pixels, gone: threading.Event) -> TensorBytes:
        self.images_decoded += 1
        embedding = await self._translate_oom(
            self._device_thread.call(partial(self._encode, pixels, gone))
        )
        self.images_encoded += 1
        return embedding

    async def _translate_oom(self, result: Awaitable[_T]) -> _T:
        with out_of_memory_as_overloaded(_NO_MEMORY_FOR_IMAGE, self._device.is_out_of_memory):
            return await result

    def close(self) -> None:
        """Let the images at hand end, but for those aside and those whose caller has gone.

        A device that hangs, or still reads its weights, is left so after ten seconds.
        """
        self._decoders.close()
        if not self._device_thread.end(_END_S):
            log.error("the device is still busy after %g s and is left so", _END_S)

    # What follows runs in the threads.

    def _load(self) -> None:
        loading = Loading(self._checkpoint.stored_bytes(vision=True))
        weights = Weights(self._checkpoint, self._device.dtype, self._device.torch_device, loading)
        with torch.inference_mode():
            self._model = VisionModel(self._checkpoint.spec, weights, self._device)

    def _encode(self, pixels: Pixels, gone: threading.Event) -> TensorBytes:
        assert self._model is not None, "start() comes first"

        def stop_if_gone() -> None:
            if gone.is_set():
                raise _CallerGone

        def layer_done() -> None:
            self._layers_done += 1
            stop_if_gone()

        self._arbiter.wait_for_prefills()
        stop_if_gone()
        batch = torch.from_numpy(pixels)[None]
        rows = self._model.encode(
            batch.to(self._device.torch_device, self._device.dtype), layer_done
        )
        embedding = _to_host(rows[0])
        self._arbiter.encode_done()
        return embedding


class _CallerGone(Exception):
    """Ends the work on an image; there is nobody to see it."""


def _to_host(tensor: torch.Tensor) -> TensorBytes:
    """Waits for the device; the bytes are the tensor's own memory, not a copy."""
    host = tensor.cpu().contiguous()
    data = host.flatten().view(torch.uint8).numpy().data
    return TensorBytes(str(host.dtype).removeprefix("torch."), tuple(host.shape), data)
