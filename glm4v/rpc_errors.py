"""Turns exceptions of handlers into gRPC statuses, in one place."""

import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from glm4v.errors import Glm4vError, InvalidRequest

log = logging.getLogger(__name__)

_Handler = Any  # grpc.RpcMethodHandler | None; its type cannot be subscripted at run time
_Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]]


class ErrorInterceptor(aio.ServerInterceptor):
    """Our own errors become their status and text; any other is a bug and stays in the log."""

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler:
        """Wrap the handler of a call."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler
        method = handler_call_details.method
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                _stream(method, handler.unary_stream),
                partial(_Request, handler.request_deserializer),
                handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            _unary(method, handler.unary_unary),
            partial(_Request, handler.request_deserializer),
            handler.response_serializer,
        )


class _Request:
    """A message on its way to its handler, which alone keeps it: gRPC keeps this for the call."""

    def __init__(self, parse: Callable[[bytes], Any] | None, data: bytes) -> None:
        # Bytes that do not parse gRPC would call an unknown error.
        try:
            self._message = parse(data) if parse else data
        except DecodeError:
            self._message = None

    def take(self) -> Any:
        """The message; raises InvalidRequest for bytes that are none of the method's type."""
        if self._message is None:
            raise InvalidRequest("the request is not a message of this method's type")
        message, self._message = self._message, None
        return message


def _unary(method: str, handle: Any) -> Any:
    async def wrapped(request: _Request, context: aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await handle(request.take(), context)
        except Exception as error:
            await _abort(method, context, error)

    return wrapped


def _stream(method: str, handle: Any) -> Any:
    async def wrapped(
        request: _Request, context: aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        try:
            async for reply in handle(request.take(), context):
                yield reply
        except Exception as error:
            await _abort(method, context, error)

    return wrapped


async def _abort(method: str, context: aio.ServicerContext[Any, Any], error: Exception) -> None:
    if isinstance(error, aio.AbortError):
        raise error
    if isinstance(error, Glm4vError):
        await context.abort(grpc.StatusCode[error.code], str(error))
    incident = uuid.uuid4().hex[:12]
    log.error("method=%s incident=%s unexpected error", method, incident, exc_info=error)
    await context.abort(
        grpc.StatusCode.INTERNAL, f"unexpected error; the server's log has it as {incident}"
    )
