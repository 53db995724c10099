"""Refuses calls to a process that is about to end."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc import aio

from glm4v.process.error_interceptor import end_call, like

_Handler = Any  # grpc.RpcMethodHandler | None; its type cannot be subscripted at run time
_HEALTH = "/grpc.health."


class DrainInterceptor(aio.ServerInterceptor):
    """Once `stopping` is set callers are sent elsewhere; health still answers, and says so.

    A server that stops drops what has arrived and was not handed over yet, and callers hear that
    they were CANCELLED. So a process refuses calls for a moment before its server stops: those who
    would come back in that instant are gone by then.
    """

    def __init__(self, stopping: asyncio.Event) -> None:
        self._stopping = stopping

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Take the place of the handler of a call."""
        handler = await continuation(handler_call_details)
        is_health = handler_call_details.method.startswith(_HEALTH)
        if not self._stopping.is_set() or is_health or handler is None:
            return handler
        return like(handler)(_refuse)


async def _refuse(_: object, context: aio.ServicerContext[Any, Any]) -> None:
    await end_call(context, grpc.StatusCode.UNAVAILABLE, "it is being stopped; ask again elsewhere")
