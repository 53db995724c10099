"""What a handler lets go of is gone, however long its stream takes."""

import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import grpc
import pytest
from grpc import aio

from glm4v.errors import InvalidRequest
from glm4v.process.call_limits import CallLimits
from glm4v.process.error_interceptor import ErrorInterceptor
from glm4v.process.receive_interceptor import CallReceiver, ReceiveInterceptor
from tests.processes import until


class Letter:
    """A message that can be watched."""

    def __init__(self, data: bytes) -> None:
        self.data = data


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What is in a cycle stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@asynccontextmanager
async def sending(handle: Any, parse: Any) -> AsyncIterator[Any]:
    """Calls of a method that streams."""
    handler: grpc.RpcMethodHandler[Letter, bytes] = grpc.unary_stream_rpc_method_handler(
        handle, parse, None
    )
    server = aio.server(
        interceptors=[ErrorInterceptor(), ReceiveInterceptor(CallReceiver(CallLimits()))]
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("post.Office", {"Send": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel.unary_stream("/post.Office/Send")
    finally:
        await server.stop(0)


async def test_a_refusal_does_not_keep_the_message_that_was_refused(no_collector: None) -> None:
    watched: list[weakref.ref[Letter]] = []

    def parse(data: bytes) -> Letter:
        letter = Letter(data)
        watched.append(weakref.ref(letter))
        return letter

    def check(letter: Letter) -> None:
        raise InvalidRequest(f"{len(letter.data)} bytes are too many")

    async def handle(request: Letter, context: Any) -> AsyncIterator[bytes]:
        await anyio.to_thread.run_sync(check, request)
        yield b""

    async with sending(handle, parse) as send:
        with pytest.raises(aio.AioRpcError, match="5 bytes are too many"):
            await send(b"image", timeout=20).read()
        await until(lambda: watched[0]() is None)


async def test_a_stream_does_not_keep_the_message_that_asked_for_it() -> None:
    watched: list[weakref.ref[Letter]] = []

    def parse(data: bytes) -> Letter:
        letter = Letter(data)
        watched.append(weakref.ref(letter))
        return letter

    async def handle(request: Letter, context: Any) -> AsyncIterator[bytes]:
        yield request.data
        del request
        yield b"gone" if watched[0]() is None else b"kept"

    async with sending(handle, parse) as send:
        call = send(b"image", timeout=20)
        assert [answer async for answer in call] == [b"image", b"gone"]
