"""Receives the messages of calls within limits of calls, time and memory.

gRPC hands a call over when its headers have arrived, before its message. So a call with a single
message is taken as a stream of messages, and the first one is read here: at once if it is small,
otherwise only when memory for the largest allowed message is free.

    headers ── counted ── message ── handler slot ── handler ── first reply: slot and memory freed
"""

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from glm4v.errors import DeadlinePassed, InvalidRequest
from glm4v.process.call_limits import CallCount, CallLimits, MessageMemory
from glm4v.process.call_slot import CallSlot, HandlerSlots
from glm4v.process.fair_semaphore import FairSemaphore
from glm4v.process.handler_interceptor import (
    Context,
    Handler,
    HandlerInterceptor,
    behaviour,
    handler_like,
    is_health_check,
)
from glm4v.process.message_stream import MessageStream
from glm4v.process.peer import peer_of

PROMPT_S = 0.05  # a message sent together with its call arrives within this time

_Replies = AsyncGenerator[Any, None]


class CallReceiver:
    """The calls in progress of one server, and the memory of their messages."""

    def __init__(self, limits: CallLimits) -> None:
        self._limits = limits
        self._calls = CallCount(limits)
        self._memory = MessageMemory(limits)
        # Silent streams must block neither single messages nor the streams that send some.
        self._silent_memory = MessageMemory(limits)
        self._stream_memory = MessageMemory(limits)
        self._reads = FairSemaphore(limits.max_reads)
        self._stream_reads = FairSemaphore(limits.max_reads)
        self._handlers = HandlerSlots(limits)

    @property
    def calls(self) -> int:
        """How many calls are in progress."""
        return self._calls.total

    async def run(self, handler: Handler, requests: Any, context: Context) -> _Replies:
        """Receive the message of a call; yields the replies of its handler.

        Raises Overloaded, DeadlinePassed for a message that does not arrive in time, InvalidRequest
        for one that does not parse, and what the handler raises.
        """
        peer = peer_of(context)
        self._calls.enter(peer)
        slot = CallSlot(self._memory, self._handlers, peer)
        try:
            data = await self._message(requests, slot)
            await slot.acquire()
            request = _parsed(handler, data)
            del data
            # Nothing here may keep the message: it has megabytes, and an answer takes minutes.
            if handler.response_streaming:
                replies, request = handler.unary_stream(request, context), None
                async for reply in replies:
                    slot.release()
                    yield reply
            else:
                call, request = handler.unary_unary(request, context), None
                yield await call
        finally:
            slot.release()
            self._calls.leave(peer)

    async def run_stream(self, handler: Handler, requests: Any, context: Context) -> _Replies:
        """Run a handler that reads its messages itself; yields its replies.

        They come as a `MessageStream`, with memory. Raises Overloaded, and what the handler raises.
        """
        peer = peer_of(context)
        self._calls.enter(peer)
        silent = CallSlot(self._silent_memory, self._handlers, peer)
        arriving = CallSlot(self._stream_memory, self._handlers, peer)
        messages = MessageStream(requests, silent, arriving, self._stream_reads, self._limits)
        try:
            replies = behaviour(handler)(messages, context)
            if inspect.isawaitable(replies):
                yield await replies
            else:
                async for reply in replies:
                    yield reply
        finally:
            messages.release()
            self._calls.leave(peer)

    async def _message(self, requests: AsyncIterator[bytes], slot: CallSlot) -> bytes:
        """The message, with memory reserved for it unless it is small."""
        # Until it is read, a call cannot send more than its flow-control window.
        async with self._reads.held(slot.peer.client, slot.peer.connection):
            read = asyncio.ensure_future(_first(requests))
            try:
                await _is_done(read, PROMPT_S)
                slot.reserve(len(read.result()) if read.done() else self._limits.max_message_bytes)
            except BaseException:
                read.cancel()
                raise
        try:
            if not await _is_done(read, self._limits.receive_timeout_s):
                raise DeadlinePassed(
                    f"the message did not arrive within {self._limits.receive_timeout_s:g} s"
                )
        finally:
            read.cancel()
        data = read.result()
        slot.reserve(len(data))
        return data


class ReceiveInterceptor(HandlerInterceptor):
    """Sends all calls but health checks through a receiver."""

    def __init__(self, receiver: CallReceiver) -> None:
        self._receiver = receiver

    def wrap(self, handler: Handler, method: str) -> Handler:
        """See HandlerInterceptor."""
        if is_health_check(method):
            return handler
        run = self._receiver.run_stream if handler.request_streaming else self._receiver.run

        async def stream(requests: Any, context: Context) -> AsyncIterator[Any]:
            async with aclosing(run(handler, requests, context)) as replies:
                async for reply in replies:
                    yield reply

        async def unary(requests: Any, context: Context) -> Any:
            async with aclosing(run(handler, requests, context)) as replies:
                return await anext(replies)

        handle = stream if handler.response_streaming else unary
        if handler.request_streaming:
            return handler_like(handler, handle)
        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        return make(handle, response_serializer=handler.response_serializer)


async def _first(requests: AsyncIterator[bytes]) -> bytes:
    async for data in requests:
        return data
    raise InvalidRequest("the call has no message")


async def _is_done(read: "asyncio.Future[bytes]", timeout_s: float) -> bool:
    """Whether a read ends in time. gRPC cannot take it back: given up, it goes on."""
    await asyncio.wait([read], timeout=timeout_s)
    await asyncio.sleep(0)  # in a busy loop it may have ended together with the timeout
    return read.done()


def _parsed(handler: Handler, data: bytes) -> Any:
    parse = handler.request_deserializer
    try:
        return parse(data) if parse else data
    except DecodeError:
        raise InvalidRequest("the request is not a message of this method's type") from None
