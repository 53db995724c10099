"""Callers are authenticated before their messages are received, and once for each message."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from glm4v.errors import Unauthenticated
from glm4v.process.call_limits import CallLimits
from glm4v.process.grpc_listener import GrpcListener
from glm4v.process.health import Health
from glm4v.process.peer import peer_of
from glm4v.status import is_marked
from tests.processes import until

NAME = "post.Office"
MB = 2**20
_Metadata = Sequence[tuple[str, str]]


class Doorkeeper:
    """Lets names in that are on its list; tells what it was shown."""

    def __init__(self, *names: str) -> None:
        self.names = set(names)
        self.shown: list[tuple[str, ...]] = []

    def authenticate(self, authorization: Sequence[str], certificate: bytes | None) -> str:
        assert certificate is None
        self.shown.append(tuple(authorization))
        if len(authorization) != 1 or authorization[0] not in self.names:
            raise Unauthenticated("who are you?")
        return authorization[0]


class Office:
    """Answers with the caller's name."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def name(self, request: bytes, context: Any) -> bytes:
        await self.may_answer.wait()
        return peer_of(context).owner.encode()

    async def names(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield await self.name(request, context)
        await self.may_answer.wait()
        yield await self.name(request, context)

    async def talk(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield await self.name(request, context)

    def register(self, server: aio.Server, health: Health) -> Sequence[str]:
        methods: dict[str, Any] = {
            "Name": grpc.unary_unary_rpc_method_handler(self.name),
            "Names": grpc.unary_stream_rpc_method_handler(self.names),
            "Talk": grpc.stream_stream_rpc_method_handler(self.talk),
        }
        handler = grpc.method_handlers_generic_handler(NAME, methods)
        server.add_generic_rpc_handlers((handler,))
        return [NAME]


class Served:
    """A listener with a doorkeeper, and calls to it."""

    def __init__(self, listener: GrpcListener, office: Office, channel: aio.Channel) -> None:
        self.listener, self.office, self.channel = listener, office, channel

    async def ask(self, *names: str, body: bytes = b"") -> str:
        call: Any = self.channel.unary_unary(f"/{NAME}/Name")
        return bytes(await call(body, metadata=said(*names), timeout=10)).decode()


def said(*names: str) -> _Metadata:
    return [("authorization", name) for name in names]


@asynccontextmanager
async def serving(
    folder: Path, keeper: Doorkeeper, limits: CallLimits | None = None
) -> AsyncIterator[Served]:
    office, address = Office(), f"unix:{folder / 'socket'}"
    listener = GrpcListener(
        address, register=office.register, limits=limits, authenticate=keeper.authenticate
    )
    await listener.start(Health())
    try:
        async with aio.insecure_channel(address) as channel:
            yield Served(listener, office, channel)
    finally:
        await listener.stop(0)


async def refusal(call: Any) -> str:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    assert is_marked(caught.value.trailing_metadata()), caught.value
    return f"{caught.value.code().name}: {caught.value.details()}"


REFUSAL = "UNAUTHENTICATED: who are you?"


async def test_the_handler_of_each_kind_of_call_knows_the_caller(tmp_path: Path) -> None:
    keeper = Doorkeeper("ann", "bob")
    async with serving(tmp_path, keeper) as served:
        assert await served.ask("ann") == "ann"
        assert (
            await asyncio.gather(*(served.ask(name) for name in ("ann", "bob") * 5))
            == [
                "ann",
                "bob",
            ]
            * 5
        )
        names: Any = served.channel.unary_stream(f"/{NAME}/Names")
        assert [bytes(each) async for each in names(b"", metadata=said("bob"))] == [b"bob"] * 2
        for shown in ((), ("eve",), ("ann", "bob"), ("ann", "ann")):
            assert await refusal(served.ask(*shown)) == REFUSAL
        assert ("ann", "bob") in keeper.shown
        assert served.listener.ended_calls[f"{NAME}/Name", "UNAUTHENTICATED"] == 4


async def test_a_stranger_takes_no_memory_and_no_place(tmp_path: Path) -> None:
    limits = CallLimits(max_calls=2, max_message_bytes=4 * MB, max_receiving_bytes=4 * MB)
    async with serving(tmp_path, Doorkeeper("ann"), limits) as served:
        served.office.may_answer.clear()
        waiting = asyncio.create_task(served.ask("ann"))
        await until(lambda: served.listener.calls == 1)
        for _ in range(5):
            assert await refusal(served.ask("eve", body=bytes(3 * MB))) == REFUSAL
        assert served.listener.calls == 1
        served.office.may_answer.set()
        assert await waiting == "ann"


async def test_callers_have_a_share_each_though_they_come_from_one_host(tmp_path: Path) -> None:
    """A Unix socket, whose clients without a name would all be one without a share."""
    async with serving(tmp_path, Doorkeeper("ann", "bob"), CallLimits(max_calls=4)) as served:
        served.office.may_answer.clear()
        calls = [asyncio.create_task(served.ask("ann")) for _ in range(2)]
        await until(lambda: served.listener.calls == 2)
        assert "2 calls of this caller are in progress" in await refusal(served.ask("ann"))
        calls.append(asyncio.create_task(served.ask("bob")))
        await until(lambda: served.listener.calls == 3)
        served.office.may_answer.set()
        assert sorted(await asyncio.gather(*calls)) == ["ann", "ann", "bob"]


async def test_a_revoked_key_ends_what_asks_for_more_and_not_what_runs(tmp_path: Path) -> None:
    keeper = Doorkeeper("ann")
    async with serving(tmp_path, keeper) as served:
        talk: Any = served.channel.stream_stream(f"/{NAME}/Talk")(metadata=said("ann"))
        await talk.write(b"")
        assert await talk.read() == b"ann"
        names: Any = served.channel.unary_stream(f"/{NAME}/Names")
        running = names(b"", metadata=said("ann"))
        assert await running.read() == b"ann"
        keeper.names.clear()
        assert await running.read() == b"ann"
        await talk.write(b"")
        assert await refusal(talk.read()) == REFUSAL
        assert await refusal(served.ask("ann")) == REFUSAL


async def test_health_is_for_everybody_and_reflection_is_not(tmp_path: Path) -> None:
    async with serving(tmp_path, Doorkeeper("ann")) as served:
        health: Any = health_pb2_grpc.HealthStub(served.channel)
        assert await health.Check(health_pb2.HealthCheckRequest(), timeout=10)
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(served.channel)
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        for names, is_let_in in (((), False), (("ann",), True)):
            call = reflection.ServerReflectionInfo(iter([ask]), metadata=said(*names), timeout=10)
            if is_let_in:
                assert (await call.read()).list_services_response.service
            else:
                assert await refusal(call.read()) == REFUSAL
