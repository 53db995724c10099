"""Turns exceptions of handlers into gRPC statuses, in one place."""

import inspect
import logging
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from glm4v.errors import Glm4vError, InvalidRequest
from glm4v.status import bounded, mark

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
        if handler is None:
            return None
        method = handler_call_details.method
        return like(handler, partial(_Request, handler.request_deserializer))(
            _stream(method, handler) if handler.response_streaming else _unary(method, handler)
        )


def like(
    handler: _Handler, parse: Callable[[bytes], Any] | None = None
) -> Callable[[Any], _Handler]:
    """A maker of handlers for calls of the same kind, with the same serializers but for `parse`."""
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]

    def handler_of(handle: Any) -> _Handler:
        return make(handle, parse or handler.request_deserializer, handler.response_serializer)

    return handler_of


async def end_call(
    context: aio.ServicerContext[Any, Any], code: grpc.StatusCode, text: str
) -> NoReturn:
    """End a call with a status that is marked as ours, and with no more text than may travel."""
    sendable = text.encode("utf-8", "replace").decode()  # lone surrogates would end it otherwise
    await context.abort(code, bounded(sendable), trailing_metadata=(mark(code.name),))


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


async def _messages(requests: AsyncIterator[_Request]) -> AsyncIterator[Any]:
    async for request in requests:
        yield request.take()


def _taken(handler: _Handler, request: Any) -> Any:
    return _messages(request) if handler.request_streaming else request.take()


def _unary(method: str, handler: _Handler) -> Any:
    handle = handler.stream_unary or handler.unary_unary

    async def wrapped(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await handle(_taken(handler, request), context)
        except Exception as error:
            status = _status(method, error)
        return await end_call(context, *status)

    return wrapped


def _stream(method: str, handler: _Handler) -> Any:
    handle = handler.stream_stream or handler.unary_stream

    async def wrapped(request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        try:
            replies = handle(_taken(handler, request), context)
            if inspect.isawaitable(replies):  # it writes to the context, as that of health does
                await replies
                return
            async for reply in replies:
                yield reply
            return
        except Exception as error:
            status = _status(method, error)
        await end_call(context, *status)

    return wrapped


def _status(method: str, error: Exception) -> tuple[grpc.StatusCode, str]:
    """What an error becomes; a call that the handler has aborted itself is left at that.

    The call is ended outside of `except`, and the frames behind the error are emptied: threads and
    what gRPC raises keep errors in cycles, and with them requests, of megabytes.
    """
    if isinstance(error, aio.AbortError):
        raise error
    if isinstance(error, Glm4vError):
        status = (grpc.StatusCode[error.code], str(error))
    else:
        incident = uuid.uuid4().hex[:12]
        log.error("method=%s incident=%s unexpected error", method, incident, exc_info=error)
        status = (
            grpc.StatusCode.INTERNAL,
            f"unexpected error; the server's log has it as {incident}",
        )
    traceback.clear_frames(error.__traceback__)
    return status
