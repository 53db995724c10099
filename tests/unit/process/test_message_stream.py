"""Calls that stream their messages, with memory for one silent stream of each host."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc import aio

from glm4v.process.call_limits import CallLimits
from glm4v.process.error_interceptor import ErrorInterceptor
from glm4v.process.receive_interceptor import CallReceiver, ReceiveInterceptor
from glm4v.process.server_options import server_options
from tests.processes import until

MB = 2**20
LIMITS = CallLimits(
    max_calls=64, max_message_bytes=4 * MB, max_receiving_bytes=8 * MB, receive_timeout_s=2
)
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


class Bench:
    """A server whose method answers each message with its size when it is told to."""

    def __init__(self, receiver: CallReceiver) -> None:
        self.receiver = receiver
        self.may_answer = asyncio.Event()
        self.read = 0

    async def answer(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        """As KServe's streams: asks for the next message while it works on one."""
        replies: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        working: set[asyncio.Task[None]] = set()

        async def work(message: bytes) -> None:
            await self.may_answer.wait()
            await replies.put(b"%d" % len(message))
            requests.idle.set()

        async def read() -> None:
            try:
                async for message in requests:
                    self.read += 1
                    requests.idle.clear()
                    working.add(asyncio.create_task(work(message)))
                await replies.put(None)
            except Exception as error:
                await replies.put(error)

        reading = asyncio.create_task(read())
        try:
            while (reply := await replies.get()) is not None:
                if isinstance(reply, Exception):
                    raise reply
                yield reply
        finally:
            reading.cancel()

    def open(self, channel: aio.Channel) -> Any:
        method: Callable[[], Any] = channel.stream_stream("/post.Office/Talk")
        return method()


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Bench, aio.Channel]]:
    bench = Bench(CallReceiver(LIMITS))
    server = aio.server(
        interceptors=[ErrorInterceptor(), ReceiveInterceptor(bench.receiver)],
        options=server_options(LIMITS),
    )
    handlers: dict[str, Any] = {"Talk": grpc.stream_stream_rpc_method_handler(bench.answer)}
    generic: Any = grpc.method_handlers_generic_handler("post.Office", handlers)
    server.add_generic_rpc_handlers([generic])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield bench, channel
    finally:
        await server.stop(0)


async def test_any_number_of_streams_is_answered_while_one_is_silent() -> None:
    async with AsyncExitStack() as stack:
        bench, channel = await stack.enter_async_context(serving())
        silent = bench.open(channel)
        await until(lambda: bench.receiver.calls == 1)
        calls = [bench.open(channel) for _ in range(20)]
        for call in calls:
            await call.write(b"x" * 10_000)
            await call.write(b"again")
            await call.done_writing()
        await until(lambda: bench.read == 20)  # the first of each
        bench.may_answer.set()
        for call in calls:
            assert [await call.read() for _ in range(3)] == [b"10000", b"5", aio.EOF]
        await silent.write(b"y" * 1000)
        assert await silent.read() == b"1000"
        silent.cancel()
        await until(lambda: bench.receiver.calls == 0)


async def test_a_second_silent_stream_of_a_host_is_refused_after_a_while() -> None:
    async with serving() as (bench, channel):
        silent = bench.open(channel)
        await until(lambda: bench.receiver.calls == 1)
        call = bench.open(channel)
        await call.write(b"x")
        await until(lambda: bench.read == 1)
        await asyncio.sleep(0.1)  # longer than a message has to arrive
        bench.may_answer.set()
        assert await call.read() == b"1"
        third = bench.open(channel)
        for late, why in (third, "it sent nothing for 1 s"), (call, "it sent nothing for 2 s"):
            with pytest.raises(aio.AioRpcError, match=f"the stream is silent, .*{why}") as caught:
                await late.read()
            assert caught.value.code() == EXHAUSTED
        silent.cancel()
        await until(lambda: bench.receiver.calls == 0)


async def test_a_message_is_not_asked_for_without_memory_for_it() -> None:
    """While a stream is answered the client can send no more than its flow-control window."""
    async with serving() as (bench, channel):
        silent = bench.open(channel)
        await until(lambda: bench.receiver.calls == 1)
        call = bench.open(channel)
        await call.write(b"x")
        await until(lambda: bench.read == 1)
        writing = asyncio.ensure_future(call.write(bytes(3 * MB)))
        await asyncio.sleep(0.2)
        assert bench.read == 1
        bench.may_answer.set()
        assert await call.read() == b"1"
        await writing
        silent.cancel()
        call.cancel()
