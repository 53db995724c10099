"""What the interceptors of a server have in common: each replaces the handler of a call."""

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc import aio

Handler = Any  # grpc.RpcMethodHandler | None; its type cannot be subscripted at run time
Context = aio.ServicerContext[Any, Any]

_HEALTH = (
    "/grpc.health.",
    "/inference.GRPCInferenceService/ServerLive",  # what KServe's protocol has for it
    "/inference.GRPCInferenceService/ServerReady",
)


class HandlerInterceptor(aio.ServerInterceptor):
    """Replaces the handlers of a server's methods."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The handler of one call; None for a method that the server does not have."""
        handler = await continuation(handler_call_details)
        return handler and self.wrap(handler, handler_call_details.method)

    @abstractmethod
    def wrap(self, handler: Handler, method: str) -> Handler:
        """The handler to use instead; `method` is /package.Service/Method."""


def is_health_check(method: str) -> bool:
    """Whether a method is a health check, for orchestrators that have no key and may not wait."""
    return method.startswith(_HEALTH)


def handler_like(
    handler: Handler, handle: Any, parse: Callable[[bytes], Any] | None = None
) -> Handler:
    """A handler that runs `handle`, with the streaming kind and serializers of another one.

    `parse` replaces the deserializer of requests.
    """
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return make(handle, parse or handler.request_deserializer, handler.response_serializer)


def behaviour(handler: Handler) -> Any:
    """The function behind a handler: of (request or requests, context)."""
    return (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
