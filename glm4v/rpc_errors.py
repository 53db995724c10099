"""Turns exceptions of handlers into gRPC statuses, in one place."""

import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
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
                _tolerant(handler.request_deserializer),
                handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            _unary(method, handler.unary_unary),
            _tolerant(handler.request_deserializer),
            handler.response_serializer,
        )


class _NoMessage:
    """Stands for bytes that are no message of the method's type."""


def _tolerant(parse: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """gRPC would call bytes that do not parse an unknown error; the handler below knows it."""
    if parse is None:
        return None

    def parse_or_mark(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError:
            return _NoMessage()

    return parse_or_mark


def _refuse_no_message(request: Any) -> None:
    if isinstance(request, _NoMessage):
        raise InvalidRequest("the request is not a message of this method's type")


def _unary(method: str, handle: Any) -> Any:
    async def wrapped(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
        try:
            _refuse_no_message(request)
            return await handle(request, context)
        except Exception as error:
            await _abort(method, context, error)

    return wrapped


def _stream(method: str, handle: Any) -> Any:
    async def wrapped(request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        try:
            _refuse_no_message(request)
            async for reply in handle(request, context):
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
