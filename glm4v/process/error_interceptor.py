"""Turns exceptions of handlers into gRPC statuses, and counts how calls end."""

import inspect
import logging
import traceback
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from glm4v.errors import Glm4vError, InvalidRequest
from glm4v.process.handler_interceptor import (
    Context,
    Handler,
    HandlerInterceptor,
    behaviour,
    handler_like,
)
from glm4v.process.peer import peer_of
from glm4v.status import bounded, mark

log = logging.getLogger(__name__)

_CODES: dict[object, str] = {code.value[0]: code.name for code in grpc.StatusCode}


class ErrorInterceptor(HandlerInterceptor):
    """Has to be the first of a server's interceptors.

    Our own errors become their status and text. Any other exception is a bug: its text goes to the
    log, and the caller gets INTERNAL.

    Attributes:
        calls: Calls that ended, by method and status name.
    """

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()

    def wrap(self, handler: Handler, method: str) -> Handler:
        """See HandlerInterceptor."""
        wrapped = self._stream if handler.response_streaming else self._unary
        parse = partial(_Request, handler.request_deserializer)
        return handler_like(handler, wrapped(method, handler), parse)

    def _unary(self, method: str, handler: Handler) -> Any:
        handle = behaviour(handler)

        async def unary(request: Any, context: Context) -> Any:
            try:
                reply = await handle(_unwrapped(handler, request), context)
                self._count(method, "OK")
                return reply
            except BaseException as error:
                status = self._status(method, error, context)
            return await _end_call(context, *status)

        return unary

    def _stream(self, method: str, handler: Handler) -> Any:
        handle = behaviour(handler)

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            try:
                replies = handle(_unwrapped(handler, request), context)
                if inspect.isawaitable(replies):  # it writes to the context, as gRPC's health does
                    await replies
                else:
                    # A client may leave while a reply is sent: then only closing tells the handler.
                    async with aclosing(replies):
                        async for reply in replies:
                            yield reply
                self._count(method, "OK")
                return
            except BaseException as error:
                status = self._status(method, error, context)
            await _end_call(context, *status)

        return stream

    def _status(
        self, method: str, error: BaseException, context: Context
    ) -> tuple[grpc.StatusCode, str]:
        """What an error becomes; a call that was aborted or cancelled raises it again.

        The call is ended outside of `except`, and the frames behind the error are emptied: threads
        and what gRPC raises keep errors in cycles, and with them requests of megabytes.
        """
        if isinstance(error, aio.AbortError):
            self._count(method, _CODES[context.code()])
            raise error
        if not isinstance(error, Exception):
            self._count(method, grpc.StatusCode.CANCELLED.name)
            raise error
        if isinstance(error, Glm4vError):
            status = (grpc.StatusCode[error.code], str(error))
        else:
            incident = uuid.uuid4().hex[:12]
            caller = peer_of(context).owner
            text = "method=%s caller=%s incident=%s unexpected error"
            log.error(text, method, caller, incident, exc_info=error)
            status = (
                grpc.StatusCode.INTERNAL,
                f"unexpected error; see incident {incident} in the server's log",
            )
        self._count(method, status[0].name)
        traceback.clear_frames(error.__traceback__)
        return status

    def _count(self, method: str, code: str) -> None:
        self.calls[method.removeprefix("/"), code] += 1


async def _end_call(context: Context, code: grpc.StatusCode, text: str) -> NoReturn:
    """End a call with a status that is marked as ours; the text is cut to what may travel."""
    sendable = text.encode("utf-8", "replace").decode()  # a lone surrogate cannot be sent
    await context.abort(code, bounded(sendable), trailing_metadata=(mark(code.name),))


class _Request:
    """A message on its way to its handler, which alone keeps it: gRPC keeps this for the call."""

    def __init__(self, parse: Callable[[bytes], Any] | None, data: bytes) -> None:
        # gRPC would end the call with UNKNOWN for bytes that do not parse.
        try:
            self._message = parse(data) if parse else data
        except DecodeError:
            self._message = None

    def take(self) -> Any:
        """The message; raises InvalidRequest for bytes that do not parse."""
        if self._message is None:
            raise InvalidRequest("the request is not a message of this method's type")
        message, self._message = self._message, None
        return message


async def _messages(requests: AsyncIterator[_Request]) -> AsyncIterator[Any]:
    async for request in requests:
        yield request.take()


def _unwrapped(handler: Handler, request: Any) -> Any:
    return _messages(request) if handler.request_streaming else request.take()
