"""How many answers a proxy lets through at once on one connection; the others wait in silence."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from glm4v.v1 import inference_pb2 as pb
from glm4v.v1 import inference_pb2_grpc as rpc
from tests.integration.test_proxies import EACH
from tests.proxies import SILENCE_S, running

CALLS = 300
FEWER = {"caddy": 250}  # it has no setting for this
FEWEST = 250
BEGIN_S = 20.0  # for each of the fewest
QUIET_S = 4.0  # nothing more begins after this


class HoldingGateway:
    """Begins every answer, and ends none before it is released."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.handler = grpc.method_handlers_generic_handler(
            "glm4v.v1.InferenceService",
            {
                "Generate": grpc.unary_stream_rpc_method_handler(
                    self._generate,
                    request_deserializer=pb.GenerateRequest.FromString,
                    response_serializer=pb.GenerateResponse.SerializeToString,
                )
            },
        )

    async def _generate(self, request: Any, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        event = pb.GenerationEvent(progress=pb.Progress())
        yield pb.GenerateResponse(event=event)
        while not self.released.is_set():
            await asyncio.sleep(SILENCE_S / 4)
            yield pb.GenerateResponse(event=event)


@pytest.mark.parametrize("name", EACH)
async def test_hundreds_of_answers_on_one_connection(name: str, tmp_path: Path) -> None:
    gateway = HoldingGateway()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((gateway.handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    proxy = running(name, [f"127.0.0.1:{port}"] * 2, tmp_path)
    target = await asyncio.to_thread(proxy.__enter__)
    try:
        async with grpc.aio.insecure_channel(target) as channel:
            assert await count_begun(rpc.InferenceServiceStub(channel), gateway) == FEWER.get(
                name, CALLS
            )
    finally:
        await asyncio.to_thread(proxy.__exit__, None, None, None)
        await server.stop(0)


async def count_begun(stub: Any, gateway: HoldingGateway) -> int:
    """How many calls have an event while none has ended; all end afterwards."""
    begun: asyncio.Queue[None] = asyncio.Queue()

    async def call() -> None:
        events = stub.Generate(pb.GenerateRequest(), timeout=60)
        await anext(aiter(events))
        begun.put_nowait(None)
        async for _ in events:
            pass

    calls = [asyncio.create_task(call()) for _ in range(CALLS)]
    count = 0
    while count < CALLS:
        try:
            await asyncio.wait_for(begun.get(), QUIET_S if count >= FEWEST else BEGIN_S)
        except TimeoutError:
            break
        count += 1
    gateway.released.set()
    await asyncio.gather(*calls)
    return count
