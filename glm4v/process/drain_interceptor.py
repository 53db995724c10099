"""Refuses calls to a process that is shutting down."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from glm4v.errors import Unavailable
from glm4v.process.handler_interceptor import (
    Context,
    Handler,
    HandlerInterceptor,
    behaviour,
    handler_like,
    is_health_check,
)

_SHUTTING_DOWN = "server is shutting down; retry on another replica"


class DrainInterceptor(HandlerInterceptor):
    """After `refuse`, new calls and calls that wait for a message raise Unavailable.

    Handlers that have their message go on. Health checks are still answered. An ErrorInterceptor
    has to stand before this one.

    A gRPC server that stops drops calls that have arrived and were not handed over yet, and their
    clients see CANCELLED. So a process refuses calls for a moment before its server stops: by then
    clients have gone elsewhere.
    """

    def __init__(self) -> None:
        self._refusing: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def refuse(self) -> None:
        """Refuse calls from now on."""
        if not self._refusing.done():
            self._refusing.set_result(None)

    def wrap(self, handler: Handler, method: str) -> Handler:
        """See HandlerInterceptor."""
        if is_health_check(method):
            return handler
        if self._refusing.done():
            return handler_like(handler, _refuse)
        if not handler.request_streaming:
            return handler
        handle = behaviour(handler)

        def drained(requests: Any, context: Context) -> Any:
            return handle(_Messages(requests, self._refusing), context)

        return handler_like(handler, drained)


class _Messages:
    """The messages of a call, up to the drain. Keeps none of them."""

    def __init__(self, requests: AsyncIterator[Any], refusing: asyncio.Future[None]) -> None:
        self._requests, self._refusing = requests, refusing

    def __aiter__(self) -> "_Messages":
        return self

    async def __anext__(self) -> Any:
        read = asyncio.ensure_future(anext(self._requests))
        try:
            await asyncio.wait([read, self._refusing], return_when=asyncio.FIRST_COMPLETED)
            if read.done():
                return read.result()
        finally:
            read.cancel()
        raise Unavailable(_SHUTTING_DOWN)


async def _refuse(_: object, context: Context) -> None:
    raise Unavailable(_SHUTTING_DOWN)
