"""A client that writes down everything it sees, and goes on through another gateway."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc

from glm4v.client.failure import is_retryable
from glm4v.v1 import inference_pb2 as api
from glm4v.v1.inference_pb2_grpc import InferenceServiceStub

_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
]
_PAUSE_S = 0.1


@dataclass
class Reading:
    """One request as its client saw it."""

    request: api.GenerateRequest
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    is_accepted: bool = False
    duplicated: int = 0
    missing: int = 0
    terminal: list[str] = field(default_factory=list)  # "finished", or a status name
    details: str = ""
    interruptions: int = 0
    longest_pause_s: float = 0.0
    finished: api.Finished | None = None
    _last_news: float = field(default_factory=time.monotonic)

    @property
    def request_id(self) -> str:
        """Chosen by the client, so that a lost reply is no second request."""
        return self.request.request_id

    def take(self, event: api.GenerationEvent) -> None:
        """Note an event."""
        kind = event.WhichOneof("event")
        if kind == "accepted":
            self.is_accepted = True
        elif kind == "delta":
            self._take_delta(event.delta)
        elif kind == "finished":
            self.finished = event.finished
            self.text += event.finished.text
            self.terminal.append("finished")

    def _take_delta(self, delta: api.Delta) -> None:
        now = time.monotonic()
        self.longest_pause_s = max(self.longest_pause_s, now - self._last_news)
        self._last_news = now
        known = len(self.token_ids)
        self.duplicated += max(0, known - delta.first_index)
        self.missing += max(0, delta.first_index - known)
        self.token_ids += delta.token_ids
        self.text += delta.text


class Reader:
    """Reads through any of several gateways, the next one when one is lost."""

    def __init__(self, targets: Sequence[str], timeout_s: float = 60.0) -> None:
        self._targets = targets
        self.timeout_s = timeout_s
        self._stack = AsyncExitStack()
        self._turn = itertools.count()

    async def __aenter__(self) -> "Reader":
        channels = [
            await self._stack.enter_async_context(grpc.aio.insecure_channel(t, options=_OPTIONS))
            for t in self._targets
        ]
        self.stubs = [InferenceServiceStub(channel) for channel in channels]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def read(self, request: api.GenerateRequest) -> Reading:
        """A request from its start to its end."""
        return await self.read_on(Reading(request))

    async def read_on(self, reading: Reading) -> Reading:
        """The rest of a request."""
        async for _ in self.events(reading):
            pass
        return reading

    async def events(self, reading: Reading) -> AsyncIterator[api.GenerationEvent]:
        """Each event once it is written down; ends with the terminal one."""
        deadline = time.monotonic() + self.timeout_s
        stubs = itertools.islice(itertools.cycle(self.stubs), next(self._turn) % 97, None)
        while not reading.terminal:
            call = self._open(next(stubs), reading, max(0.01, deadline - time.monotonic()))
            try:
                async for reply in call:
                    reading.take(reply.event)
                    yield reply.event
            except grpc.aio.AioRpcError as error:
                reading.interruptions += 1
                if not is_retryable(error) or time.monotonic() > deadline:
                    reading.terminal.append(error.code().name)
                    reading.details = error.details() or ""
                    return
                await asyncio.sleep(_PAUSE_S)
            finally:
                call.cancel()

    async def cancel(self, request_id: str) -> bool:
        """End a request, whichever gateway answers; a full disk or queue is waited for."""
        for stub in itertools.cycle(self.stubs):
            try:
                reply = await stub.Cancel(api.CancelRequest(request_id=request_id), timeout=10)
            except grpc.aio.AioRpcError as error:
                is_full = error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                if not (is_full or is_retryable(error)):
                    raise
                await asyncio.sleep(_PAUSE_S)
            else:
                return reply.cancelled
        raise AssertionError("there is no gateway")

    def _open(self, stub: InferenceServiceStub, reading: Reading, timeout_s: float) -> Any:
        if reading.is_accepted:
            attach = api.AttachRequest(
                request_id=reading.request_id, token_offsets=[len(reading.token_ids)]
            )
            return stub.Attach(attach, timeout=timeout_s)
        return stub.Generate(reading.request, timeout=timeout_s)
