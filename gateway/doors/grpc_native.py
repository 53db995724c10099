"""The gRPC service glm4v.v1.InferenceService."""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from grpc import aio

from gateway.access import trace_context
from gateway.access.caller import Caller
from gateway.facade import Gateway
from glm4v.process.peer import peer_of
from glm4v.v1 import inference_pb2 as api
from glm4v.v1.inference_pb2_grpc import (
    InferenceServiceServicer,
    add_InferenceServiceServicer_to_server,
)

_Context = aio.ServicerContext[Any, Any]
_SERVICE = api.DESCRIPTOR.services_by_name["InferenceService"].full_name


class InferenceServicer(InferenceServiceServicer):
    """Translates calls. Raises `glm4v.errors`, which the process turns into statuses.

    A client that disconnects ends its stream only: the request keeps running for its orphan
    timeout. For a slow client, the next event is built when the last one is sent, so no buffer
    fills.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def Generate(
        self, request: api.GenerateRequest, context: _Context
    ) -> AsyncIterator[api.GenerateResponse]:
        """Start a request and stream its events."""
        events = await self._gateway.generate(
            caller_of(context), request, time_limit_s=context.time_remaining()
        )
        del request  # and its image
        async with aclosing(events):
            async for event in events:
                yield api.GenerateResponse(event=event)

    async def Attach(
        self, request: api.AttachRequest, context: _Context
    ) -> AsyncIterator[api.AttachResponse]:
        """Stream the events of an existing request."""
        events = await self._gateway.attach(caller_of(context), request)
        async with aclosing(events):
            async for event in events:
                yield api.AttachResponse(event=event)

    async def Cancel(self, request: api.CancelRequest, context: _Context) -> api.CancelResponse:
        """Cancel a request."""
        return await self._gateway.cancel(caller_of(context), request)

    async def CountTokens(
        self, request: api.CountTokensRequest, context: _Context
    ) -> api.CountTokensResponse:
        """Count the tokens of a prompt."""
        return await self._gateway.count_tokens(caller_of(context), request)

    async def GetModel(
        self, request: api.GetModelRequest, context: _Context
    ) -> api.GetModelResponse:
        """Describe the model."""
        return await self._gateway.model(caller_of(context), request)


def caller_of(context: _Context) -> Caller:
    """The caller of a gRPC call, as the listener has authenticated it."""
    peer = peer_of(context)
    sent = {str(name): value for name, value in context.invocation_metadata() or ()}
    parent = sent.get(trace_context.HEADER)
    return Caller(
        peer.owner,
        client=peer.host,
        traceparent=trace_context.traceparent(parent if isinstance(parent, str) else None),
    )


def register(server: aio.Server, gateway: Gateway) -> Sequence[str]:
    """Add the service to a server; the names of the services added."""
    add_InferenceServiceServicer_to_server(InferenceServicer(gateway), server)
    return [_SERVICE]
