"""Encodes images: one is on the device while the next ones are decoded.

decoders  | image 1 | image 2 | image 3 |
device                | 1         | 2         | 3         |

Other processes decode; an image that takes long to decode moves to their slow lane (see
`decoders`).

Cancelling a caller's task cancels its image: before the device stage it is skipped, in it the
device stops after the current layer.
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
from glm4v.tensor_bytes import TensorBytes
from vision_worker.decoders import Decoders, NeedsSlowLane, Pixels
from vision_worker.model import VisionModel

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_CLOSE_TIMEOUT_S = 10.0
_NO_MEMORY = "the vision worker has not enough memory for its weights; free some"
_NO_MEMORY_FOR_IMAGE = (
    "the vision worker has not enough memory left for this image; send it scaled down, or try "
    "again later"
)


class Encoder:
    """One device and the vision model on it; an error is raised to its own caller only.

    Memory is bounded for any number of callers: one image is on the device, and at most as many
    others as there are quick decoders are being decoded or wait for it. Images in the slow lane
    do not count.
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
        self._in_flight = asyncio.Semaphore(decoders.quick + 1)
        self._model: VisionModel | None = None
        self.images_decoded = 0  # written by the event loop
        self.images_encoded = 0
        self._layers_done = 0  # written by the device thread
        self.started = asyncio.Event()

    async def start(self) -> None:
        """Read the weights; raises CheckpointError, or Overloaded if memory does not suffice."""
        with self._device.errors(_NO_MEMORY):
            self._decoders.start()
            await self._device_thread.call(self._load)
        self.started.set()

    @property
    def progress(self) -> int:
        """Grows with every image decoded, every layer computed, and while the slow lane works."""
        return self.images_decoded + self._layers_done + self._decoders.progress

    @property
    def slow_images(self) -> int:
        """Images in the slow lane of the decoders."""
        return self._decoders.slow_images

    async def encode(self, data: bytes) -> TensorBytes:
        """An image file -> its embedding [image tokens, hidden] on the host.

        Raises InvalidRequest for an image that cannot be decoded, Overloaded if memory
        does not suffice.
        """
        cancelled = threading.Event()
        try:
            async with self._in_flight:
                with suppress(NeedsSlowLane):
                    return await self._on_device(
                        await self._translate_oom(self._decoders.decode_quick(data)), cancelled
                    )
            pixels = await self._translate_oom(self._decoders.decode_slow(data))
            async with self._in_flight:
                return await self._on_device(pixels, cancelled)
        finally:
            cancelled.set()

    async def _on_device(self, pixels: Pixels, cancelled: threading.Event) -> TensorBytes:
        self.images_decoded += 1
        embedding = await self._translate_oom(
            self._device_thread.call(partial(self._encode, pixels, cancelled))
        )
        self.images_encoded += 1
        return embedding

    async def _translate_oom(self, result: Awaitable[_T]) -> _T:
        with self._device.errors(_NO_MEMORY_FOR_IMAGE):
            return await result

    def close(self) -> None:
        """Finish the current images, but not cancelled ones and those in the slow lane.

        Gives up after ten seconds on a device that hangs, and at once on weights that are still
        being read.
        """
        self._decoders.close()
        within_s = _CLOSE_TIMEOUT_S if self.started.is_set() else 0.0
        if not self._device_thread.end(within_s) and within_s:
            log.error("device did not finish within %g s; exiting anyway", within_s)

    # The methods below run in the device thread.

    def _load(self) -> None:
        loading = Loading(self._checkpoint.stored_bytes(vision=True))
        device = self._device
        weights = Weights(
            self._checkpoint,
            device.dtype,
            device.torch_device,
            loading,
            packs_files=device.packs_files,
        )
        with torch.inference_mode():
            self._model = VisionModel(self._checkpoint.spec, weights, device)

    def _encode(self, pixels: Pixels, cancelled: threading.Event) -> TensorBytes:
        assert self._model is not None, "start() was not called"

        def stop_if_cancelled() -> None:
            if cancelled.is_set():
                raise _Cancelled

        def layer_done() -> None:
            self._layers_done += 1
            self._arbiter.layer_done()
            stop_if_cancelled()

        self._arbiter.wait_for_prefills()
        try:
            stop_if_cancelled()
            batch = torch.from_numpy(pixels)[None]
            embeddings = self._model.encode(
                batch.to(self._device.torch_device, self._device.dtype), layer_done
            )
            return _to_host(embeddings[0])
        finally:
            self._arbiter.encode_done()


class _Cancelled(Exception):
    """Ends the work on a cancelled image."""


def _to_host(tensor: torch.Tensor) -> TensorBytes:
    """The tensor on the host, once the device has computed it; bytes without a copy."""
    host = tensor.cpu().contiguous()
    data = host.flatten().view(torch.uint8).numpy().data
    return TensorBytes(str(host.dtype).removeprefix("torch."), tuple(host.shape), data)
