"""The five calls of the public contract."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from grpc import aio

from gateway.admission.admission import MAX_CHOICES, Admission
from gateway.admission.validation import check_range, check_request_id, refuse_unknown_fields
from gateway.streaming.reader import Reader
from glm4v.broker import Broker
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.v1 import inference_pb2 as api
from glm4v.v1.inference_pb2_grpc import InferenceServiceServicer

_Context = aio.ServicerContext[Any, Any]


class InferenceServicer(InferenceServiceServicer):
    """Raises `glm4v.errors`; the host of the process turns them into statuses.

    A client that disconnects ends its stream only: the request keeps running for its orphan
    timeout. A client that reads slowly is waited for: each event is written before the next journal
    entry is read, so nothing piles up here.
    """

    def __init__(
        self, broker: Broker, admission: Admission, reader: Reader, model: api.GetModelResponse
    ) -> None:
        self._broker = broker
        self._admission = admission
        self._reader = reader
        self._model = model

    async def Generate(
        self, request: api.GenerateRequest, context: _Context
    ) -> AsyncIterator[api.GenerateResponse]:
        """Submit, then follow the journal from its start."""
        admitted = await self._admission.admit(request, context.time_remaining())
        await self._broker.submit(admitted.job, admitted.image)
        request_id, with_ids = admitted.job.request_id, request.return_prompt_ids
        del admitted, request  # an image each, for as long as the answer takes
        events = self._reader.events(request_id, with_prompt_ids=with_ids)
        async with aclosing(events):
            async for event in events:
                yield api.GenerateResponse(event=event)

    async def Attach(
        self, request: api.AttachRequest, context: _Context
    ) -> AsyncIterator[api.AttachResponse]:
        """Follow the journal from the first token the client has not."""
        count = len(request.token_offsets)
        check_range("the number of token_offsets", count, 0, MAX_CHOICES)
        refuse_unknown_fields(request)
        check_request_id(request.request_id)
        events = self._reader.events(request.request_id, token_offsets=request.token_offsets)
        async with aclosing(events):
            async for event in events:
                yield api.AttachResponse(event=event)

    async def Cancel(self, request: api.CancelRequest, context: _Context) -> api.CancelResponse:
        """Close the journals; the worker learns it from its next append."""
        refuse_unknown_fields(request)
        check_request_id(request.request_id)
        end = pb.JournalEnd(kind=pb.END_KIND_CANCELLED)
        cancelled = await self._broker.cancel(request.request_id, end)
        return api.CancelResponse(cancelled=cancelled)

    async def CountTokens(
        self, request: api.CountTokensRequest, context: _Context
    ) -> api.CountTokensResponse:
        """Render the prompt; one that is too long for the context is counted too."""
        prompt = await self._admission.count(request)
        has_image = prompt.image_offset is not None
        return api.CountTokensResponse(
            prompt_tokens=len(prompt.ids),
            image_tokens=self._model.image_tokens if has_image else 0,
            prompt_ids=prompt.ids,
        )

    async def GetModel(
        self, request: api.GetModelRequest, context: _Context
    ) -> api.GetModelResponse:
        """What does not change while the process lives."""
        refuse_unknown_fields(request)
        return self._model
