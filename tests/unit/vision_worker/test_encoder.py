"""The encoder: stages that overlap, callers that go, errors that stay with whom they concern."""

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import anyio
import numpy as np
import pytest
import torch
from PIL import Image

import vision_worker.encoder
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.checkpoint.tiny import write_tiny
from glm4v.checkpoint.weights import Weights
from glm4v.device import Device
from glm4v.device.cpu.device import CpuDevice
from glm4v.errors import CheckpointError, InvalidRequest, Overloaded
from glm4v.images import ImageLimits
from glm4v.tensor_bytes import TensorBytes, pack, unpack
from vision_worker.decoders import Decoders
from vision_worker.encoder import Encoder
from vision_worker.model import VisionModel
from vision_worker.preprocess import pixel_values

LAYERS = 2  # of the tiny checkpoint
DECODERS = 2


class AllocationFailed(Exception):
    """An error that only its device knows."""


class SteppedDevice(CpuDevice):
    """The CPU, which stops in every layer until it is let go on; it can run out of memory."""

    def __init__(self) -> None:
        super().__init__(torch.float32)
        self.at_layer = asyncio.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.allocate = 0  # bytes that are asked for on top
        self.failure: Exception | None = None
        self._loop = asyncio.get_running_loop()

    def full_attention(self, heads: torch.Tensor) -> torch.Tensor:
        self._loop.call_soon_threadsafe(self.at_layer.release)
        self.go_on.acquire()
        if self.failure is not None:
            raise self.failure
        torch.empty(self.allocate, dtype=torch.uint8)
        return super().full_attention(heads)

    def is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, AllocationFailed) or super().is_out_of_memory(error)

    def free_run(self) -> None:
        """Stop no more."""
        self.go_on.release(1000)


def image(number: int) -> bytes:
    """A PNG file; each number gives another image."""
    stream = io.BytesIO()
    Image.new("RGB", (20, 10), (number, 255 - number, 0)).save(stream, "PNG")
    return stream.getvalue()


def array(packed: TensorBytes) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.frombuffer(packed.data, np.float32).reshape(packed.shape)


async def reached(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder: Path = tmp_path_factory.mktemp("checkpoints") / "tiny"
    write_tiny(folder)
    return Checkpoint.open(folder)


def opened(checkpoint: Checkpoint, device: Device) -> "closing[Encoder]":
    """An encoder that has not been started; the block closes it."""
    size = checkpoint.spec.vision.image_size
    return closing(Encoder(checkpoint, device, Decoders(ImageLimits(), size, quick=DECODERS)))


@pytest.fixture
async def device() -> SteppedDevice:
    return SteppedDevice()


@pytest.fixture
async def encoder(checkpoint: Checkpoint, device: SteppedDevice) -> AsyncIterator[Encoder]:
    with opened(checkpoint, device) as encoder:
        await encoder.start()
        yield encoder
        device.free_run()


async def test_gives_what_the_model_gives(checkpoint: Checkpoint) -> None:
    device = CpuDevice(torch.float32)
    with opened(checkpoint, device) as encoder:
        await encoder.start()
        packed = unpack(pack(await encoder.encode(image(1))))
    weights = Weights(checkpoint, torch.float32, torch.device("cpu"))
    model = VisionModel(checkpoint.spec, weights, device)
    pixels = pixel_values(image(1), checkpoint.spec.vision.image_size, ImageLimits())
    expected = model.encode(torch.from_numpy(pixels)[None], lambda: None)[0]
    assert packed.dtype == "float32"
    np.testing.assert_array_equal(array(packed), expected.numpy())


async def test_bfloat16_travels_as_such(checkpoint: Checkpoint) -> None:
    with opened(checkpoint, CpuDevice(torch.bfloat16)) as encoder:
        await encoder.start()
        packed = await encoder.encode(image(1))
    rows, hidden = checkpoint.spec.vision.num_image_tokens, checkpoint.spec.hidden_size
    assert (packed.dtype, packed.shape) == ("bfloat16", (rows, hidden))
    assert len(packed.data) == rows * hidden * 2
    again = torch.frombuffer(bytearray(packed.data), dtype=torch.bfloat16)
    assert 0 < again.float().abs().max() < 10


async def test_the_next_image_is_decoded_while_the_device_works(
    encoder: Encoder, device: SteppedDevice
) -> None:
    first = asyncio.create_task(encoder.encode(image(1)))
    await device.at_layer.acquire()  # the device holds the first, and is not let go on
    assert encoder.progress == 1
    second = asyncio.create_task(encoder.encode(image(2)))
    await reached(lambda: encoder.progress == 2)
    device.free_run()
    results = await asyncio.gather(first, second)
    assert not np.array_equal(array(results[0]), array(results[1]))
    assert encoder.progress == 2 * (1 + LAYERS)


async def test_only_so_many_images_are_decoded_ahead(
    encoder: Encoder, device: SteppedDevice
) -> None:
    tasks = [asyncio.create_task(encoder.encode(image(number))) for number in range(8)]
    await device.at_layer.acquire()
    await reached(lambda: encoder.progress == 1 + DECODERS)
    for _ in range(50):  # chances to decode more
        await asyncio.sleep(0.002)
    assert encoder.progress == 1 + DECODERS
    device.free_run()
    assert len({bytes(result.data) for result in await asyncio.gather(*tasks)}) == 8


async def test_progress_grows_within_an_image(encoder: Encoder, device: SteppedDevice) -> None:
    task = asyncio.create_task(encoder.encode(image(1)))
    seen = []
    for _ in range(LAYERS):
        await device.at_layer.acquire()
        seen.append(encoder.progress)
        device.go_on.release()
    await task
    assert [*seen, encoder.progress] == [1, 2, 3]


async def test_an_image_whose_caller_goes_before_the_device_never_reaches_it(
    encoder: Encoder, device: SteppedDevice
) -> None:
    first = asyncio.create_task(encoder.encode(image(1)))
    await device.at_layer.acquire()
    second = asyncio.create_task(encoder.encode(image(2)))
    await reached(lambda: encoder.progress == 2)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    device.free_run()
    await first
    third = await encoder.encode(image(3))
    assert third.data
    assert encoder.progress == 3 + 2 * LAYERS  # three were decoded, two computed


async def test_the_device_stops_at_the_next_layer_when_the_caller_goes(
    encoder: Encoder, device: SteppedDevice
) -> None:
    first = asyncio.create_task(encoder.encode(image(1)))
    await device.at_layer.acquire()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    device.free_run()
    await encoder.encode(image(2))
    assert encoder.progress == 2 + 1 + LAYERS  # one layer of the first, all of the second


async def test_callers_that_go_leave_their_room(encoder: Encoder, device: SteppedDevice) -> None:
    for _ in range(3):
        tasks = [asyncio.create_task(encoder.encode(image(number))) for number in range(8)]
        await device.at_layer.acquire()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        device.go_on.release()
    device.free_run()
    with anyio.fail_after(20):
        await encoder.encode(image(9))


async def test_an_error_of_the_device_reaches_its_caller_only(
    encoder: Encoder, device: SteppedDevice
) -> None:
    first = asyncio.create_task(encoder.encode(image(1)))
    await device.at_layer.acquire()
    second = asyncio.create_task(encoder.encode(image(2)))
    device.failure = RuntimeError("device error 507015")
    device.go_on.release()
    with pytest.raises(RuntimeError, match="507015"):
        await first
    device.failure = None
    device.free_run()
    assert (await second).data


async def test_memory_that_is_out_is_told_as_overload(
    encoder: Encoder, device: SteppedDevice
) -> None:
    device.free_run()
    device.allocate = 2**60
    with pytest.raises(Overloaded, match="not enough memory"):
        await encoder.encode(image(1))
    device.allocate = 0
    for failure in (torch.OutOfMemoryError("Tried to allocate 2 GiB"), AllocationFailed()):
        device.failure = failure
        with pytest.raises(Overloaded, match="not enough memory"):
            await encoder.encode(image(1))
    device.failure = None
    assert (await encoder.encode(image(1))).data


async def test_an_image_that_cannot_be_decoded_leaves_the_others_alone(
    encoder: Encoder, device: SteppedDevice
) -> None:
    device.free_run()
    good, bad = await asyncio.gather(
        encoder.encode(image(1)), encoder.encode(image(2)[:50]), return_exceptions=True
    )
    assert isinstance(good, TensorBytes)
    assert isinstance(bad, InvalidRequest)


async def test_weights_that_cannot_be_read_end_the_start(tmp_path: Path) -> None:
    write_tiny(tmp_path / "tiny")
    checkpoint = Checkpoint.open(tmp_path / "tiny")
    place = checkpoint.tensors["transformer.vision.conv.weight"]
    place.file.unlink()
    with opened(checkpoint, CpuDevice(torch.float32)) as encoder:
        with pytest.raises(CheckpointError, match="cannot be read"):
            await encoder.start()
        assert not encoder.started.is_set()


async def test_close_waits_for_the_images_at_hand(encoder: Encoder, device: SteppedDevice) -> None:
    first = asyncio.create_task(encoder.encode(image(1)))
    await device.at_layer.acquire()
    second = asyncio.create_task(encoder.encode(image(2)))
    await reached(lambda: encoder.progress == 2)
    being_closed = asyncio.create_task(asyncio.to_thread(encoder.close))
    await asyncio.sleep(0.1)
    assert not being_closed.done()
    device.free_run()
    assert (await first).data
    assert (await second).data
    await being_closed


async def test_close_leaves_a_device_that_hangs(
    encoder: Encoder,
    device: SteppedDevice,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(vision_worker.encoder, "_CLOSE_TIMEOUT_S", 0.1)
    encoding = asyncio.create_task(encoder.encode(image(1)))
    await device.at_layer.acquire()
    encoding.cancel()
    await asyncio.to_thread(encoder.close)
    assert "device did not finish within 0.1 s" in caplog.text
    device.free_run()
