"""Gateways in this process, and a language worker that says what a test tells it to."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import grpc
from grpc import aio

from gateway.admission.admission import Admission, AdmissionLimits
from gateway.admission.sampling import read_defaults
from gateway.doors.grpc_services import register
from gateway.facade import Gateway, describe
from gateway.streaming.follow import RequestFollower
from gateway.text.tokenizer import Tokenizer
from glm4v.broker import Broker, Connection, Keys
from glm4v.broker.lm_queue import Append, LmQueue, RequestLease
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.images import ImageLimits
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.process.error_interceptor import ErrorInterceptor
from glm4v.process.health import Health
from glm4v.v1 import inference_pb2 as api
from glm4v.v1.inference_pb2_grpc import InferenceServiceStub

MAX_IMAGE_BYTES = 5 * 2**20
MAX_OPEN = 6  # half of them of one client


class RunningGateway:
    """One running gateway and a client of it."""

    def __init__(self, server: aio.Server, channel: aio.Channel) -> None:
        self.server = server
        self.channel = channel
        self.stub = InferenceServiceStub(channel)

    async def die(self) -> None:
        """End without letting calls finish."""
        await self.server.stop(0)


def gateway_of(broker: Broker, checkpoint: Checkpoint, *, keepalive_s: float = 10.0) -> Gateway:
    """A gateway with small limits."""
    spec = checkpoint.spec
    tokenizer = Tokenizer.read(checkpoint.directory, spec)
    defaults = read_defaults(checkpoint.directory)
    images = ImageLimits(MAX_IMAGE_BYTES, 10_000)
    limits = AdmissionLimits(images, default_deadline_s=60, max_deadline_s=60)
    return Gateway(
        broker,
        Admission(spec, checkpoint.fingerprint, tokenizer, defaults, limits),
        RequestFollower(
            broker,
            tokenizer,
            fingerprint=checkpoint.fingerprint,
            image_tokens=spec.vision.num_image_tokens,
            keepalive_s=keepalive_s,
        ),
        describe(checkpoint, defaults, images),
        tokenizer,
    )


@asynccontextmanager
async def running_broker(
    connection: Connection, keys: Keys, fingerprint: str
) -> AsyncIterator[Broker]:
    """A gateway's broker, whose background tasks run."""
    broker = Broker(connection, keys, max_open_requests=MAX_OPEN, result_ttl_s=60)
    await broker.ready(fingerprint)
    running = asyncio.create_task(broker.run())
    try:
        yield broker
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@asynccontextmanager
async def running_gateway(
    connection: Connection, keys: Keys, checkpoint: Checkpoint, *, keepalive_s: float = 10.0
) -> AsyncIterator[RunningGateway]:
    """A gateway with small limits on a port of its own."""
    size = ("grpc.max_receive_message_length", 2 * MAX_IMAGE_BYTES + 8 * 2**20)
    server = aio.server(interceptors=[ErrorInterceptor()], options=[size])
    async with running_broker(connection, keys, checkpoint.fingerprint) as broker:
        register(server, Health(), gateway_of(broker, checkpoint, keepalive_s=keepalive_s))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield RunningGateway(server, channel)
        finally:
            await server.stop(0)


class ScriptedWorker:
    """Claims requests as a language worker does and appends what it is given."""

    def __init__(self, connection: Connection, keys: Keys, fingerprint: str) -> None:
        self._queue = LmQueue(connection, keys, fingerprint, lease_s=30, result_ttl_s=60)
        self._next: dict[str, int] = {}

    async def claim(self) -> RequestLease:
        """The next request; fails when there is none for a while."""
        with anyio.fail_after(20):
            while True:
                for lease in await self._queue.claim(1):
                    return lease

    async def job(self, lease: RequestLease) -> pb.Job:
        """What a claimed request asks for."""
        resumed = await self._queue.resume_or_release(lease)
        assert resumed is not None
        return resumed.job

    async def say(
        self,
        lease: RequestLease,
        text: str | bytes,
        end: pb.JournalEnd | None = None,
        *,
        logprob: float | None = None,
    ) -> str:
        """Append a token for each byte, in one step; the broker's answer."""
        ids = list(text.encode() if isinstance(text, str) else text)
        first = self._next.get(lease.request_id, 0)
        self._next[lease.request_id] = first + len(ids)
        if end is not None:
            end.at_ms = end.at_ms or now_ms()
            end.token_count = first + len(ids)
        tokens = pb.JournalTokens(ids=ids, at_ms=now_ms()) if ids else None
        if tokens is not None and logprob is not None:
            for token_id in ids:
                chosen = api.Logprob(token_id=token_id, logprob=logprob)
                tokens.logprobs.add(chosen=chosen, top=[chosen])
        [answer] = await self._queue.append([Append(lease, first, tokens, end)])
        return answer


def ask(request_id: str = "r", text: str = "hello", **fields: object) -> api.GenerateRequest:
    """A request with one message."""
    request = api.GenerateRequest(request_id=request_id, **fields)  # type: ignore[arg-type]
    request.messages.add(role=api.ROLE_USER).parts.add(text=text)
    return request


def attach(offset: int = 0, request_id: str = "r") -> api.AttachRequest:
    """The request again."""
    return api.AttachRequest(request_id=request_id, token_offsets=[offset])


def now_ms() -> int:
    """Unix time in milliseconds."""
    return int(time.time() * 1000)


def length_end() -> pb.JournalEnd:
    """As long as it may be."""
    return pb.JournalEnd(kind=pb.END_KIND_LENGTH)


def failed_end(code: str, message: str) -> pb.JournalEnd:
    """An error, with the name of its gRPC status."""
    return pb.JournalEnd(kind=pb.END_KIND_FAILED, code=code, message=message)


Call = (
    aio.UnaryStreamCall[api.GenerateRequest, api.GenerateResponse]
    | aio.UnaryStreamCall[api.AttachRequest, api.AttachResponse]
)


async def collect(call: Call) -> list[api.GenerationEvent]:
    """All events of a call that succeeds."""
    with anyio.fail_after(10):
        return [reply.event async for reply in call]


async def read_until(call: Call, text: str) -> list[api.GenerationEvent]:
    """Events up to the one that completes a text."""
    events: list[api.GenerationEvent] = []
    with anyio.fail_after(10):
        while text_of(events) != text:
            reply = await call.read()
            assert isinstance(reply, api.GenerateResponse | api.AttachResponse)
            events.append(reply.event)
    return events


async def refusal(call: Call | aio.UnaryUnaryCall[Any, Any]) -> tuple[grpc.StatusCode, str]:
    """Status and message of a call that fails, whatever it sends before."""
    try:
        with anyio.fail_after(10):
            if isinstance(call, aio.UnaryUnaryCall):
                await call
            else:
                while await call.read() is not aio.EOF:
                    pass
    except aio.AioRpcError as error:
        return error.code(), error.details() or ""
    raise AssertionError("the call did not fail")


def text_of(events: Sequence[api.GenerationEvent]) -> str:
    """The text of an answer."""
    return "".join(event.delta.text + event.finished.text for event in events)


def tokens_of(events: Sequence[api.GenerationEvent]) -> list[int]:
    """The tokens of an answer."""
    return [token_id for event in events for token_id in event.delta.token_ids]
