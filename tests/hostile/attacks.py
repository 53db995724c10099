"""What one client can do with nothing but a connection, each bounded in count and time."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import anyio

from glm4v.v1 import inference_pb2 as api
from tests.hostile.raw_client import EMPTY, WINDOW, RawClient, enveloped

Statuses = Counter[str]
Attack = Callable[[str, Statuses], Awaitable[None]]  # where to, and what counts how calls end
HOLD_S = 6.0  # how long an attack keeps up what it has built
_SOURCE = "127.0.0.2"  # so that it is another host than the honest client's
_ANSWERS_S = 60.0  # for all that are served
_BURST = 500  # calls between two looks at what the server says
_BUSY_STEPS = 20_000


async def busy_core(target: str, statuses: Statuses, hold_s: float = HOLD_S) -> None:
    """No attack: what it costs the honest client that a process here computes all the time."""
    with anyio.move_on_after(hold_s):
        while True:
            sum(range(_BUSY_STEPS))
            await asyncio.sleep(0)


async def silent_streams(
    target: str, statuses: Statuses, count: int = 4200, hold_s: float = HOLD_S
) -> None:
    """One connection with many calls and no message in any."""
    async with RawClient(target, _SOURCE, statuses) as client:
        for _ in range(count):
            await client.open("Generate")
        await asyncio.sleep(hold_s)


async def slow_messages(
    target: str,
    statuses: Statuses,
    connections: int = 8,
    count: int = 50,
    hold_s: float = HOLD_S,
) -> None:
    """Messages of 20 MB that come a byte at a time."""
    async with AsyncExitStack() as stack:
        clients = await _connected(stack, target, statuses, connections)
        calls = [(client, await client.open("Generate")) for client in clients * count]
        for client, call in calls:
            await client.data(call, enveloped(b"", 20 * 2**20))
        with anyio.move_on_after(hold_s):
            while True:
                for client, call in calls:
                    await client.data(call, b"\0")
                await asyncio.sleep(0.5)


async def large_messages(
    target: str, statuses: Statuses, connections: int = 4, count: int = 15, megabytes: int = 27
) -> None:
    """Messages as large as gRPC lets through, all at once."""
    request = _question()
    request.messages[0].parts.add().image.data = bytes(megabytes * 2**20)
    data = enveloped(request.SerializeToString())
    async with AsyncExitStack() as stack:
        clients = await _connected(stack, target, statuses, connections)
        calls = [(client, await client.open("Generate")) for client in clients * count]
        await asyncio.gather(*(client.upload(call, data) for client, call in calls))
        with anyio.move_on_after(_ANSWERS_S):
            for client in clients:
                await client.ended(count)


async def empty_messages(
    target: str, statuses: Statuses, streams: int = 300, hold_s: float = HOLD_S
) -> None:
    """Millions of messages of no bytes, behind the one that a call takes."""
    request = _question(max_tokens=100).SerializeToString()
    burst = [EMPTY] * (WINDOW // len(EMPTY))
    async with RawClient(target, _SOURCE, statuses) as client:
        for _ in range(streams):
            call = await client.open("Generate")
            await client.data(call, enveloped(request), *burst)
        await asyncio.sleep(hold_s)


async def reset_streams(target: str, statuses: Statuses, count: int = 30_000) -> None:
    """Calls that are cancelled as soon as they are made."""
    async with RawClient(target, _SOURCE, statuses) as client:
        for number in range(count):
            await client.reset(await client.open("Generate"))
            if number % _BURST == 0:
                await asyncio.sleep(0)
        await asyncio.sleep(1)


async def idle_connections(
    target: str, statuses: Statuses, count: int = 3000, hold_s: float = HOLD_S
) -> None:
    """Connections that say nothing."""
    host, _, port = target.rpartition(":")
    opened: list[asyncio.StreamWriter] = []
    try:
        for _ in range(count):
            try:
                opening = asyncio.open_connection(host, int(port), local_addr=(_SOURCE, 0))
                opened.append((await asyncio.wait_for(opening, 1))[1])
            except (OSError, TimeoutError):
                statuses["refused"] += 1
        await asyncio.sleep(hold_s)
    finally:
        for writer in opened:
            writer.transport.abort()


async def many_requests(
    target: str,
    statuses: Statuses,
    connections: int = 10,
    count: int = 500,
    max_tokens: int = 4,
) -> None:
    """More requests than are served, all of them good."""
    request = _question(max_tokens).SerializeToString()
    async with AsyncExitStack() as stack:
        clients = await _connected(stack, target, statuses, connections)
        for client in clients:
            for _ in range(count):
                await client.ask("Generate", request)
        with anyio.move_on_after(_ANSWERS_S):
            for client in clients:
                await client.ended(count)


async def long_answers(
    target: str, statuses: Statuses, connections: int = 2, count: int = 500
) -> None:
    """As many requests as are served, each for the longest answer there may be."""
    await many_requests(target, statuses, connections, count, max_tokens=400)


async def _connected(
    stack: AsyncExitStack, target: str, statuses: Statuses, count: int
) -> list[RawClient]:
    clients = (RawClient(target, _SOURCE, statuses) for _ in range(count))
    return [await stack.enter_async_context(client) for client in clients]


def _question(max_tokens: int = 4) -> api.GenerateRequest:
    request = api.GenerateRequest(max_tokens=max_tokens, ignore_eos=True)
    request.messages.add(role=api.ROLE_USER).parts.add(text="why?")
    return request


ATTACKS: dict[str, Attack] = {
    "a busy core, no attack": busy_core,
    "no message": silent_streams,
    "slow messages": slow_messages,
    "large messages": large_messages,
    "empty messages": empty_messages,
    "resets": reset_streams,
    "idle connections": idle_connections,
    "many requests": many_requests,
    "long answers": long_answers,
}
