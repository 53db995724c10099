"""How calls come in: how many at once, how long a message may take, how much memory all may hold.

gRPC hands a call over when its headers are there, before its message. So every call with one
message is taken as a stream of messages, of which the first is read here: within a moment where it
is small, else only when there is room for the largest message that is allowed.

    headers ── counted ── message ── turn ── handler ── first reply: turn and room are given back
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from glm4v.errors import DeadlinePassed, InvalidRequest, Overloaded
from glm4v.process.call_limits import CallLimits, CallSlot, MessageMemory
from glm4v.process.fair_semaphore import FairSemaphore

_Context = aio.ServicerContext[Any, Any]
_Handler = Any  # grpc.RpcMethodHandler | None; its type cannot be subscripted at run time

PROMPT_S = 0.05  # in which a message arrives that was sent with its call; later ones need room
_HEALTH = "/grpc.health."


class CallReceiver:
    """What is under way in one process."""

    def __init__(self, limits: CallLimits) -> None:
        self._limits = limits
        self._calls: Counter[str] = Counter()  # by host, and of all
        self._room = MessageMemory(limits)
        self._readings = FairSemaphore(limits.max_reads)
        self._handlers = FairSemaphore(limits.max_handlers)

    @property
    def is_idle(self) -> bool:
        """Whether no call is under way."""
        return not self._calls

    async def run(
        self, handler: _Handler, requests: Any, context: _Context
    ) -> AsyncGenerator[Any, None]:
        """Replies of a handler that takes one message; one reply when it has one.

        Raises Overloaded, DeadlinePassed for a message that does not arrive, InvalidRequest for
        one that does not parse, and what the handler raises.
        """
        peer = context.peer()
        self._come(peer)
        place = CallSlot(self._room, self._handlers, peer)
        try:
            request = _parsed(handler, await self._message(requests, place))
            await place.take_turn()
            # Nothing here may keep the message: it is megabytes, and an answer takes minutes.
            if handler.response_streaming:
                replies, request = handler.unary_stream(request, context), None
                async for reply in replies:
                    place.give_back()
                    yield reply
            else:
                call, request = handler.unary_unary(request, context), None
                yield await call
        finally:
            place.give_back()
            self._count(peer, -1)

    async def _message(self, requests: AsyncIterator[bytes], place: CallSlot) -> bytes:
        """The message, with room for it where it is not small."""
        # Until it is read, a call cannot send more than its window.
        async with self._readings.held(place.peer):
            reading = asyncio.ensure_future(_first(requests))
            try:
                await _is_done(reading, PROMPT_S)
                place.reserve(_size(reading, self._limits.max_message_bytes))
            except BaseException:
                reading.cancel()
                raise
        try:
            if not await _is_done(reading, self._limits.receive_timeout_s):
                raise DeadlinePassed(
                    f"the message did not arrive within {self._limits.receive_timeout_s:g} s"
                )
        finally:
            reading.cancel()
        data = reading.result()
        place.reserve(len(data))
        return data

    def _come(self, peer: str) -> None:
        for owner, whose, limit in self._limits.shares(peer, self._limits.max_calls):
            if self._calls[owner] >= limit:
                raise Overloaded(
                    f"{self._calls[owner]} calls of {whose} are under way, of {limit}; call later"
                )
        self._count(peer, 1)

    def _count(self, peer: str, change: int) -> None:
        for owner, _, _ in self._limits.shares(peer, self._limits.max_calls):
            self._calls[owner] += change
            if not self._calls[owner]:
                del self._calls[owner]


class ReceiveInterceptor(aio.ServerInterceptor):
    """Lets every call with one message in through a receiver, but those about health."""

    def __init__(self, receiver: CallReceiver) -> None:
        self._receiver = receiver

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Take the place of the handler of a call."""
        handler = await continuation(handler_call_details)
        is_health = handler_call_details.method.startswith(_HEALTH)
        if handler is None or handler.request_streaming or is_health:
            return handler

        async def stream(requests: Any, context: _Context) -> AsyncIterator[Any]:
            async with aclosing(self._receiver.run(handler, requests, context)) as replies:
                async for reply in replies:
                    yield reply

        async def unary(requests: Any, context: _Context) -> Any:
            async with aclosing(self._receiver.run(handler, requests, context)) as replies:
                return await anext(replies)

        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                stream, response_serializer=handler.response_serializer
            )
        return grpc.stream_unary_rpc_method_handler(
            unary, response_serializer=handler.response_serializer
        )


async def _first(requests: AsyncIterator[bytes]) -> bytes:
    async for data in requests:
        return data
    raise InvalidRequest("the call has no message")


def _size(reading: "asyncio.Future[bytes]", largest: int) -> int:
    """Of a message that is there, or may be."""
    return len(reading.result()) if reading.done() else largest


async def _is_done(reading: "asyncio.Future[bytes]", seconds: float) -> bool:
    """Whether it is done in time. A read that is given up goes on: gRPC cannot take it back."""
    await asyncio.wait([reading], timeout=seconds)
    await asyncio.sleep(0)  # it may have come with the timeout, in a loop that was busy
    return reading.done()


def _parsed(handler: _Handler, data: bytes) -> Any:
    parse = handler.request_deserializer
    try:
        return parse(data) if parse else data
    except DecodeError:
        raise InvalidRequest("the request is not a message of this method's type") from None
