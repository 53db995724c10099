"""The client of gateways for asyncio. It needs grpcio and protobuf, nothing else.

async with AsyncClient("127.0.0.1:8330") as client:
    question = user_message("What is this?", Path("photo.jpg").read_bytes())
    async with client.generate([question]) as answer:
        async for piece in answer.texts():
            print(piece, end="", flush=True)
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar, Unpack

import grpc
from google.protobuf.message import Message

from glm4v.client.async_generation import AsyncGeneration
from glm4v.client.channel import ChannelOptions
from glm4v.client.options import GenerateOptions
from glm4v.client.session import (
    CANCEL_TIMEOUT_S,
    REASON_S,
    SHORT_CALL_S,
    Session,
    attach_request,
    cancel_request,
    generate_request,
    unreachable,
)
from glm4v.client.tls import Tls
from glm4v.errors import Glm4vError
from glm4v.v1 import inference_pb2 as pb
from glm4v.v1.inference_pb2_grpc import InferenceServiceStub

if TYPE_CHECKING:
    from glm4v.v1.inference_pb2_grpc import InferenceServiceAsyncStub

    _Method = Callable[
        [InferenceServiceAsyncStub], grpc.aio.UnaryUnaryMultiCallable["_Request", "_Reply"]
    ]

_Request = TypeVar("_Request", bound=Message)
_Reply = TypeVar("_Reply")


class AsyncClient:
    """A connection to gateways, for any number of concurrent requests of one event loop.

    It takes what `Client` takes and raises what `Client` raises.
    """

    def __init__(
        self,
        *targets: str,
        timeout_s: float = 600.0,
        retry_timeout_s: float = 10.0,
        api_key: str | None = None,
        tls: Tls | None = None,
    ) -> None:
        self._session: Session[grpc.aio.Channel, InferenceServiceAsyncStub] = Session(
            targets,
            timeout_s=timeout_s,
            retry_timeout_s=retry_timeout_s,
            api_key=api_key,
            tls=tls,
            open_channel=_open_channel,
            make_stub=InferenceServiceStub,
        )
        self._cancelling: set[asyncio.Task[None]] = set()

    async def connect(self, within_s: float) -> None:
        """Wait until a gateway can be reached. Raises Unavailable, with the reason, if none can.

        Optional, for an early error: every call connects by itself.
        """
        gateways = self._session.gateways
        share_s = within_s / len(gateways)
        for _ in range(len(gateways)):
            gateway = gateways.current()
            try:
                async with asyncio.timeout(share_s):
                    return await gateway.channel.channel_ready()
            except TimeoutError:
                gateways.leave(gateway.target)
        gateway = gateways.current()
        try:
            await gateway.stub.GetModel(pb.GetModelRequest(), timeout=REASON_S)
        except grpc.RpcError as error:
            raise unreachable(error, gateway.target, within_s) from None

    def generate(
        self,
        messages: Iterable[pb.Message] = (),
        *,
        timeout_s: float | None = None,
        **options: Unpack[GenerateOptions],
    ) -> AsyncGeneration:
        """A request with the fields of `GenerateOptions`, which starts when it is first read."""
        return AsyncGeneration(
            self._session, generate_request(messages, options), timeout_s, self._cancel_early
        )

    def attach(
        self, request_id: str, *token_offsets: int, timeout_s: float | None = None
    ) -> AsyncGeneration:
        """Stream an existing request, after the first `token_offsets` tokens of each choice."""
        request = attach_request(request_id, token_offsets)
        return AsyncGeneration(self._session, request, timeout_s, self._cancel_early)

    async def cancel(self, request_id: str) -> bool:
        """Cancel a request. False if it had ended before."""
        reply = await self._call(_cancel, cancel_request(request_id), SHORT_CALL_S)
        return reply.cancelled

    async def count_tokens(self, messages: Iterable[pb.Message]) -> pb.CountTokensResponse:
        """The length of a conversation."""
        request = pb.CountTokensRequest(messages=messages)
        return await self._call(lambda stub: stub.CountTokens, request, SHORT_CALL_S)

    async def get_model(self) -> pb.GetModelResponse:
        """The model, its defaults and its limits."""
        return await self._call(lambda stub: stub.GetModel, pb.GetModelRequest(), SHORT_CALL_S)

    async def close(self) -> None:
        """Close the connections and all open streams. Requests that run go on until orphaned."""
        channels = self._session.gateways.close()
        try:
            if self._cancelling:
                await asyncio.wait(self._cancelling)
        finally:
            for channel in channels:
                await channel.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _cancel_early(self, request_id: str) -> None:
        """Cancel a request, also when the task that leaves it is being cancelled itself.

        The call has a task of its own, which ends after `CANCEL_TIMEOUT_S` at the latest; `close`
        waits for it. If no gateway answers, the orphan timeout ends the request.
        """
        task = asyncio.create_task(self._send_cancel(pb.CancelRequest(request_id=request_id)))
        self._cancelling.add(task)
        task.add_done_callback(self._cancelling.discard)
        await asyncio.shield(task)

    async def _send_cancel(self, request: pb.CancelRequest) -> None:
        with contextlib.suppress(Glm4vError):
            await self._call(_cancel, request, CANCEL_TIMEOUT_S)

    async def _call(
        self,
        method: "_Method[_Request, _Reply]",
        request: _Request,
        at_most_s: float,
    ) -> _Reply:
        """The reply to an idempotent call, which is tried again while no gateway answers."""
        attempts = self._session.attempts(request, min(self._session.timeout_s, at_most_s))
        while True:
            gateway = self._session.gateways.current()
            try:
                return await method(gateway.stub)(
                    request, timeout=attempts.timeout_s, metadata=self._session.metadata
                )
            except grpc.RpcError as error:
                failure = self._session.failure(error, gateway.target, attempts)
            await asyncio.sleep(attempts.pause_after(failure, is_accepted=False))


def _open_channel(
    target: str, credentials: grpc.ChannelCredentials | None, options: ChannelOptions
) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, credentials, options=options)


def _cancel(
    stub: "InferenceServiceAsyncStub",
) -> "grpc.aio.UnaryUnaryMultiCallable[pb.CancelRequest, pb.CancelResponse]":
    return stub.Cancel
