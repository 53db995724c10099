"""A stream of events as a response."""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.doors.http.connection import while_connected
from gateway.doors.http.errors import ErrorForm, error_response, problem_of
from gateway.doors.http.running import Running
from gateway.doors.http.sse import Framing
from glm4v.v1 import inference_pb2 as api

# A failure within this time, before any text, is still an answer with its own status.
PATIENCE_S = 1.0
_STAGES = {
    api.STAGE_QUEUED: "queued",
    api.STAGE_ENCODING: "encoding",
    api.STAGE_RUNNING: "running",
}


class Encoder(Protocol):
    """The payloads of one stream in the terms of a format. Text is encoded for each token: quickly,
    from parts that were made before.
    """

    def begin(self, accepted: api.Accepted) -> Iterable[bytes]:
        """What comes first."""

    def delta(self, choice: int, delta: api.Delta) -> Iterable[bytes]:
        """Tokens, and text that may be empty."""

    def finished(self, choice: int, finished: api.Finished) -> Iterable[bytes]:
        """The end of a choice, with the rest of its text."""

    def complete(self) -> Iterable[bytes]:
        """What follows the last choice, before the end."""

    def end(self) -> Iterable[bytes]:
        """The end of a whole stream."""


class StreamResponse(Response):
    """Sends the events of a request as they come.

    A stream that fails ends with an error in its form, never as if it were whole. Nothing is
    buffered: for a slow client the next event is read when the last one is sent.

    Args:
        running: The request.
        encoder: Makes payloads; of this stream alone.
        framing: Makes frames of payloads.
        errors: The form of errors, before the stream and inside it.
        headers: Further headers.
    """

    def __init__(
        self,
        running: Running,
        encoder: Encoder,
        framing: Framing,
        errors: ErrorForm,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._running = running
        self._encoder = encoder
        self._framing = framing
        self._errors = errors
        super().__init__(headers=headers, media_type=framing.media_type)
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-cache, no-transform"
        self.headers["x-accel-buffering"] = "no"  # for nginx
        self.headers["x-request-id"] = running.accepted.request_id
        self._is_started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        try:
            if not await while_connected(self._run(scope, receive, send), receive):
                await self._running.leave()
        finally:
            await self._running.events.aclose()

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._send_events(send)
        except Exception as error:
            problem = problem_of(error)
            if not self._is_started:
                response = error_response(problem, self._errors)
                response.headers["x-request-id"] = self._running.accepted.request_id
                await response(scope, receive, send)
                return
            frame = self._framing.error(self._errors.frame(problem))
            if not frame:
                raise ConnectionAbortedError from None  # the server breaks the connection off
            await send({"type": "http.response.body", "body": frame})

    async def _send_events(self, send: Send) -> None:
        """Send all events. The head waits for the first text, or for a moment."""
        events, begun = self._running.events, self._begin()
        read = asyncio.ensure_future(anext(events))
        try:
            deadline = asyncio.get_running_loop().time() + PATIENCE_S
            while not self._is_started:
                left_s = max(0.0, deadline - asyncio.get_running_loop().time())
                await asyncio.wait({read}, timeout=left_s)
                if read.done():
                    event = read.result()
                    begun += self._frames(event)
                    read = asyncio.ensure_future(anext(events))
                    if event.HasField("progress") and left_s:
                        continue
                await self._start(send, begun)
            with suppress(StopAsyncIteration):
                await self._send(send, self._frames(await read))
                while True:
                    await self._send(send, self._frames(await anext(events)))
        finally:
            read.cancel()
            await asyncio.gather(read, return_exceptions=True)
        await send({"type": "http.response.body", "body": self._end()})

    async def _start(self, send: Send, body: bytes) -> None:
        self._is_started = True
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)
        await self._send(send, body)

    async def _send(self, send: Send, body: bytes) -> None:
        if body:
            await send({"type": "http.response.body", "body": body, "more_body": True})

    def _begin(self) -> bytes:
        running = self._running
        if running.terms.position is not None:  # the client has it
            return b""
        return self._framing.frames(self._encoder.begin(running.accepted), self._id())

    def _frames(self, event: api.GenerationEvent) -> bytes:
        position = self._running.position
        if event.HasField("delta"):
            position.move(event)
            return self._framing.frames(self._encoder.delta(event.choice, event.delta), self._id())
        if event.HasField("finished"):
            if event.choice in position.ended:
                return b""
            position.move(event)
            payloads = self._encoder.finished(event.choice, event.finished)
            return self._framing.frames(payloads, self._id())
        if event.HasField("progress"):
            return self._framing.comment(_STAGES.get(event.progress.stage, "waiting"))
        return b""

    def _end(self) -> bytes:
        position, frames = self._running.position, b""
        if not position.is_complete:
            position.is_complete = True
            frames = self._framing.frames(self._encoder.complete(), self._id())
        return frames + self._framing.frames(self._encoder.end(), self._id())

    def _id(self) -> str | None:
        return str(self._running.position) if self._running.terms.with_event_ids else None
