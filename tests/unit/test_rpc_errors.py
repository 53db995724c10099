"""What a handler lets go of is gone, however long its stream takes."""

import weakref
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc import aio

from glm4v.rpc_errors import ErrorInterceptor


class Letter:
    """A message that can be watched."""

    def __init__(self, data: bytes) -> None:
        self.data = data


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

    handler: grpc.RpcMethodHandler[Letter, bytes] = grpc.unary_stream_rpc_method_handler(
        handle, parse, None
    )
    server = aio.server(interceptors=[ErrorInterceptor()])
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("post.Office", {"Send": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            send: aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(
                "/post.Office/Send"
            )
            call = send(b"picture", timeout=20)
            assert [answer async for answer in call] == [b"picture", b"gone"]
    finally:
        await server.stop(0)
