"""Clients as there are always some: each asks about a photograph, again and again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO

import grpc
import numpy as np
from grpc import aio
from PIL import Image

from glm4v.client.messages import user_message
from glm4v.v1 import inference_pb2 as api
from glm4v.v1.inference_pb2_grpc import InferenceServiceStub

CLIENTS = 8
_PHOTOGRAPHS = 4
_LATER_S = 0.2
_WIDTH, _HEIGHT = 4000, 3000  # of a telephone's camera; with noise as below it has 4 MB


@asynccontextmanager
async def ordinary_load(target: str, clients: int = CLIENTS) -> AsyncIterator[None]:
    """`clients` ask at the same time; errors of any end the load at its end."""
    photographs = [photograph(seed) for seed in range(_PHOTOGRAPHS)]
    stopping = asyncio.Event()
    asking = [
        asyncio.create_task(_ask(target, photographs[number % _PHOTOGRAPHS], stopping))
        for number in range(clients)
    ]
    try:
        yield
    finally:
        stopping.set()
        await asyncio.gather(*asking)


async def _ask(target: str, data: bytes, stopping: asyncio.Event) -> None:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    request = api.GenerateRequest(
        messages=[user_message("what is this?", data)], max_tokens=4, ignore_eos=True
    )
    async with aio.insecure_channel(target, options=options) as channel:
        stub = InferenceServiceStub(channel)
        while not stopping.is_set():
            try:
                async for _ in stub.Generate(request, timeout=60):
                    pass
            except aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                await asyncio.sleep(_LATER_S)  # as it is told


def photograph(seed: int) -> bytes:
    """A JPEG file of 12 megapixels and about 4 MB."""
    noise = np.random.default_rng(seed).integers(0, 256, (_HEIGHT // 4, _WIDTH // 4, 3), np.uint8)
    out = BytesIO()
    Image.fromarray(noise).resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC).save(
        out, "JPEG", quality=75
    )
    return out.getvalue()
