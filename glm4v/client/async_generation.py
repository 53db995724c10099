"""The stream of a request for asyncio, which survives lost connections and gateways."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import grpc

from glm4v.client.answer import Answer
from glm4v.client.session import Session
from glm4v.errors import Cancelled, Glm4vError
from glm4v.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from glm4v.v1.inference_pb2_grpc import InferenceServiceAsyncStub


class _Events(Protocol):
    """What gRPC gives for a stream of replies; its end is another object."""

    async def read(self) -> object: ...

    def cancel(self) -> object: ...


class AsyncGeneration(Answer["InferenceServiceAsyncStub"]):
    """An asynchronous iterator of `GenerationEvent`, which begins when it is first read.

    Use it as a context manager: leaving it early cancels a request that `generate` started, and
    leaves one that `attach` joined running. After a lost connection it attaches again where it was,
    so that no event is lost or repeated. A read that is cancelled, by `asyncio.timeout` for
    example, loses nothing: the next one goes on. It raises the errors of `glm4v.errors`. One task
    reads it; another one may close it.
    """

    def __init__(
        self,
        session: "Session[grpc.aio.Channel, InferenceServiceAsyncStub]",
        request: pb.GenerateRequest | pb.AttachRequest,
        timeout_s: float | None,
        cancel: Callable[[str], Awaitable[None]],
    ) -> None:
        super().__init__(session, request, timeout_s)
        self._cancel = cancel
        self._closed = asyncio.Event()
        self._target = ""
        self._call: _Events | None = None  # none before the first read and after a cancelled one
        self._was_opened = False

    async def text(self) -> str:
        """The text of the first choice; reads the stream to its end."""
        async for _ in self:
            pass
        return self.choices[0].text

    async def texts(self) -> AsyncIterator[str]:
        """The text of the first choice in pieces, as they become final."""
        async for event in self:
            piece = event.delta.text or event.finished.text
            if piece and event.choice == 0:
                yield piece

    async def close(self) -> None:
        """Stop reading. Cancels the request if `generate` started it and it has not ended."""
        if self._is_over:
            return
        self._is_over = True
        self._closed.set()
        if self._call is not None:
            self._call.cancel()
        if self._is_ours and self._was_opened:
            await self._cancel(self.request_id)

    def __aiter__(self) -> "AsyncGeneration":
        return self

    async def __anext__(self) -> pb.GenerationEvent:
        while not self._is_over:
            call, error = self._call or self._open(), None
            try:
                reply = await call.read()
            except asyncio.CancelledError:
                self._call = None  # gRPC has cancelled it
                if _is_cancelled():
                    raise
                self._is_over = True  # this stream or the client was closed by another task
                raise Cancelled("the stream was closed while it was read") from None
            except grpc.aio.AioRpcError as caught:
                error = caught
            else:
                if isinstance(reply, pb.GenerateResponse | pb.AttachResponse):
                    if self._record(reply.event, self._target):
                        return reply.event
                    continue
            self._call = None
            await self._pause(self._failure(error, self._target))
        raise StopAsyncIteration

    async def __aenter__(self) -> "AsyncGeneration":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def _open(self) -> _Events:
        gateway = self._session.gateways.current()
        request, timeout_s = self._next_call(), self._attempts.timeout_s
        metadata = self._session.metadata
        self._target, self._was_opened = gateway.target, True
        if isinstance(request, pb.GenerateRequest):
            self._call = gateway.stub.Generate(request, timeout=timeout_s, metadata=metadata)
        else:
            self._call = gateway.stub.Attach(request, timeout=timeout_s, metadata=metadata)
        return self._call

    async def _pause(self, failure: Glm4vError) -> None:
        """Wait before the next call, or until the stream is closed."""
        if self._is_over:
            raise failure from None
        pause_s = self._pause_after(failure)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._closed.wait()


def _is_cancelled() -> bool:
    """Whether somebody cancelled this task, rather than the call that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
