"""A server whose calls, messages and memory are limited, and clients that want more."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from glm4v.process import receive_interceptor
from glm4v.process.call_limits import CallLimits
from glm4v.process.error_interceptor import ErrorInterceptor
from glm4v.process.receive_interceptor import CallReceiver, ReceiveInterceptor
from glm4v.process.server_options import server_options
from glm4v.v1 import inference_pb2 as api
from glm4v.v1.inference_pb2_grpc import (
    InferenceServiceServicer,
    InferenceServiceStub,
    add_InferenceServiceServicer_to_server,
)
from tests.hostile.raw_client import RawClient
from tests.processes import until

MB = 2**20
LIMITS = CallLimits(
    max_calls=8,
    max_message_bytes=4 * MB,
    max_receiving_bytes=8 * MB,
    receive_timeout_s=0.5,
    max_handlers=4,
)
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED.name
LATE = grpc.StatusCode.DEADLINE_EXCEEDED.name


class Servicer(InferenceServiceServicer):
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.may_end = asyncio.Event()
        self.running = 0

    async def Generate(
        self, request: api.GenerateRequest, context: Any
    ) -> AsyncIterator[api.GenerateResponse]:
        self.running += 1
        del request
        await self.may_answer.wait()
        yield api.GenerateResponse()
        await self.may_end.wait()

    async def CountTokens(
        self, request: api.CountTokensRequest, context: Any
    ) -> api.CountTokensResponse:
        return api.CountTokensResponse(prompt_tokens=len(request.messages))

    Attach = Cancel = GetModel = None  # type: ignore[assignment]


class Bench:
    """A server on a port, and a well-behaved connection to it."""

    def __init__(self, servicer: Servicer, receiver: CallReceiver, target: str) -> None:
        self.servicer, self.receiver, self.target = servicer, receiver, target

    async def ask(self, megabytes: float = 0) -> str:
        """A call of its own connection that is read to its first reply."""
        request = api.GenerateRequest()
        request.messages.add().parts.add().image.data = bytes(int(megabytes * MB))
        async with self.channel() as channel:
            try:
                await InferenceServiceStub(channel).Generate(request, timeout=20).read()
            except aio.AioRpcError as error:
                return f"{error.code().name}: {error.details()}"
        return "OK"

    def channel(self) -> aio.Channel:
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_send_message_length", -1),
            ("grpc.enable_http_proxy", 0),
        ]
        return aio.insecure_channel(self.target, options=options)

    async def count(self) -> int:
        async with self.channel() as channel:
            request = api.CountTokensRequest(messages=[api.Message()])
            reply = await InferenceServiceStub(channel).CountTokens(request, timeout=20)
        return reply.prompt_tokens

    def nothing_is_left(self) -> bool:
        return self.receiver.calls == 0


@asynccontextmanager
async def serving(limits: CallLimits = LIMITS) -> AsyncIterator[Bench]:
    receiver, servicer = CallReceiver(limits), Servicer()
    server = aio.server(
        interceptors=[ErrorInterceptor(), ReceiveInterceptor(receiver)],
        options=server_options(limits),
    )
    add_InferenceServiceServicer_to_server(servicer, server)
    health_servicer = health.aio.HealthServicer()
    await health_servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield Bench(servicer, receiver, f"127.0.0.1:{port}")
    finally:
        await server.stop(0)


async def test_calls_without_a_message_take_nobodys_place() -> None:
    """One host has room for one large message, so one of its calls is waited for."""
    async with serving() as bench, RawClient(bench.target, "127.0.0.2") as silent:
        for _ in range(4):
            await silent.open("Generate")
        await until(lambda: silent.statuses[EXHAUSTED] == 3)
        assert await bench.count() == 1
        await until(lambda: silent.statuses[LATE] == 1)
        await until(bench.nothing_is_left)


async def test_what_is_too_much_is_refused_with_the_numbers() -> None:
    async with serving() as bench:
        calls = [asyncio.create_task(bench.ask()) for _ in range(6)]
        await until(lambda: sum(call.done() for call in calls) == 2)
        bench.servicer.may_answer.set()
        answers = Counter(await asyncio.gather(*calls))
    refusal = (
        "RESOURCE_EXHAUSTED: 4 calls of this host are in progress, at most 4 are allowed; "
        "retry later"
    )
    assert answers == {"OK": 4, refusal: 2}


async def test_health_is_answered_whatever_else_is_under_way() -> None:
    async with AsyncExitStack() as stack:
        bench = await stack.enter_async_context(serving(CallLimits(max_calls=1)))
        silent = await stack.enter_async_context(RawClient(bench.target, "127.0.0.2"))
        channel = await stack.enter_async_context(bench.channel())
        await silent.open("Generate")
        await until(lambda: not bench.nothing_is_left())
        assert "1 calls of all clients are in progress" in await bench.ask()
        stub = health_pb2_grpc.HealthStub(channel)
        reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def test_messages_have_their_room_until_the_first_reply(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(receive_interceptor, "PROMPT_S", 5.0)  # so that each is as large as it is
    async with serving() as bench:
        first = asyncio.create_task(bench.ask(3))
        await until(lambda: bench.servicer.running == 1)
        refusal = await bench.ask(2)
        assert re.match(
            rf"RESOURCE_EXHAUSTED: messages of this host take 31457\d\d of {4 * MB} bytes, "
            r"and this one may take 20971\d\d; retry later",
            refusal,
        )
        assert await bench.count() == 1  # small ones need none
        bench.servicer.may_answer.set()
        assert await first == "OK"
        assert await bench.ask(3.5) == "OK"
        await until(bench.nothing_is_left)


async def test_large_messages_of_a_host_are_handled_one_after_another() -> None:
    limits = CallLimits(
        max_message_bytes=4 * MB,
        max_receiving_bytes=32 * MB,
        large_bytes=MB,
        large_bytes_per_s=10 * MB,
    )
    async with serving(limits) as bench:
        large = [asyncio.create_task(bench.ask(3)) for _ in range(3)]
        await until(lambda: bench.servicer.running == 1)
        small = asyncio.create_task(bench.ask())
        await until(lambda: bench.servicer.running == 2)
        bench.servicer.may_answer.set()
        assert await small == "OK"
        began = time.monotonic()
        assert await asyncio.gather(*large) == ["OK"] * 3
        assert time.monotonic() - began > 0.4  # two turns of 0.3 s, less what had passed
        await until(bench.nothing_is_left)


async def test_a_message_that_trickles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receive_interceptor, "PROMPT_S", 0.01)
    async with serving() as bench, RawClient(bench.target) as slow:
        call = await slow.open("Generate")
        await slow.data(call, b"\0" + (2 * MB).to_bytes(4, "big"))
        for _ in range(20):
            await slow.data(call, b"\0")
            await asyncio.sleep(0.05)
        await until(lambda: slow.statuses[LATE] == 1)
        await until(bench.nothing_is_left)


@pytest.mark.parametrize("sent", [b"", b"\0" + MB.to_bytes(4, "big")])
async def test_calls_that_are_left_give_their_room_back(sent: bytes) -> None:
    async with serving() as bench:
        async with RawClient(bench.target) as client:
            calls = [await client.open("Generate") for _ in range(2)]
            for call in calls:
                await client.data(call, sent)
            await until(lambda: not bench.nothing_is_left())
            await client.reset(calls[0])
        await until(bench.nothing_is_left)


async def test_handlers_work_by_turns() -> None:
    async with serving() as bench, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(bench.channel()) for _ in range(4)]
        replies = [InferenceServiceStub(each).Generate(api.GenerateRequest()) for each in clients]
        reading = [asyncio.create_task(call.read()) for call in replies]
        await until(lambda: bench.servicer.running == 2)
        await asyncio.sleep(0.05)
        assert bench.servicer.running == 2
        bench.servicer.may_answer.set()
        await asyncio.gather(*reading)  # of streams that are still open
        assert bench.servicer.running == 4


async def test_a_call_that_ends_without_a_message_is_the_callers_error() -> None:
    async with serving() as bench, bench.channel() as channel:
        send: Callable[..., Any] = channel.stream_unary("/glm4v.v1.InferenceService/CountTokens")
        with pytest.raises(aio.AioRpcError, match="the call has no message") as caught:
            await send(iter([]))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
