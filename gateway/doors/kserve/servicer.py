"""The gRPC service inference.GRPCInferenceService: KServe's protocol with Triton's streams."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from grpc import aio

from gateway.access.caller import Caller
from gateway.doors.grpc_native import caller_of
from gateway.doors.kserve import grpc_service_pb2 as pb
from gateway.doors.kserve.answer import Answer
from gateway.doors.kserve.grpc_service_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)
from gateway.doors.kserve.inference import Inference
from gateway.doors.kserve.messages import read_request, response
from gateway.doors.kserve.model import (
    INPUTS,
    OUTPUTS,
    PLATFORM,
    SERVER,
    VERSION,
    TensorInfo,
    check_model,
    properties,
)
from gateway.doors.kserve.running import Running
from gateway.doors.kserve.stream import InferStream
from gateway.facade import Gateway
from glm4v.errors import InvalidRequest, UnknownReference
from glm4v.process.health import Health
from glm4v.process.message_stream import MessageStream
from glm4v.v1 import inference_pb2 as api

_Context = aio.ServicerContext[Any, Any]
_SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
_EXTENSIONS = ("model_configuration", "parameters")
_TYPES = {"BYTES": pb.TYPE_STRING, "BOOL": pb.TYPE_BOOL, "UINT32": pb.TYPE_UINT32}


class InferenceServicer(GRPCInferenceServiceServicer):
    """Translates calls. Raises `glm4v.errors`, which the process turns into statuses."""

    def __init__(self, gateway: Gateway, health: Health) -> None:
        self._gateway = gateway
        self._health = health

    async def ServerLive(
        self, request: pb.ServerLiveRequest, context: _Context
    ) -> pb.ServerLiveResponse:
        """Whether the process answers."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: pb.ServerReadyRequest, context: _Context
    ) -> pb.ServerReadyResponse:
        """Whether the process takes requests."""
        return pb.ServerReadyResponse(ready=self._health.is_serving)

    async def ModelReady(
        self, request: pb.ModelReadyRequest, context: _Context
    ) -> pb.ModelReadyResponse:
        """Whether a model takes requests; one that is not served here does not."""
        try:
            await self._model(caller_of(context), request.name, request.version)
        except UnknownReference:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._health.is_serving)

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: _Context
    ) -> pb.ServerMetadataResponse:
        """Describe the server."""
        model = await self._gateway.model(caller_of(context), api.GetModelRequest())
        return pb.ServerMetadataResponse(
            name=SERVER, version=model.server_version, extensions=_EXTENSIONS
        )

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: _Context
    ) -> pb.ModelMetadataResponse:
        """Describe the tensors of the model."""
        model = await self._model(caller_of(context), request.name, request.version)
        return pb.ModelMetadataResponse(
            name=model.name,
            versions=[VERSION],
            platform=PLATFORM,
            inputs=map(_metadata, INPUTS),
            outputs=map(_metadata, OUTPUTS),
            properties=properties(model),
        )

    async def ModelConfig(
        self, request: pb.ModelConfigRequest, context: _Context
    ) -> pb.ModelConfigResponse:
        """Describe the model in Triton's form."""
        model = await self._model(caller_of(context), request.name, request.version)
        config = pb.ModelConfig(name=model.name, platform=PLATFORM, backend=PLATFORM)
        for each in INPUTS:
            config.input.add(
                name=each.name,
                data_type=_TYPES[each.datatype],
                dims=each.shape,
                optional=each.is_optional,
            )
        for each in OUTPUTS:
            config.output.add(name=each.name, data_type=_TYPES[each.datatype], dims=each.shape)
        config.model_transaction_policy.decoupled = True
        return pb.ModelConfigResponse(config=config)

    async def ModelInfer(
        self, request: pb.ModelInferRequest, context: _Context
    ) -> pb.ModelInferResponse:
        """Answer a request in one piece."""
        caller = caller_of(context)
        model = await self._model(caller, request.model_name, request.model_version)
        inference = read_request(request)
        del request  # and its image
        if inference.is_stop:
            raise InvalidRequest("the input 'stop' ends a request of the same ModelStreamInfer")
        answer = await self._answer(caller, inference, context.time_remaining())
        return response(inference, model.name, answer.outputs())

    async def ModelStreamInfer(
        self, request_iterator: AsyncIterator[pb.ModelInferRequest], context: _Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Answer any number of requests, each piece by piece."""
        idle = asyncio.Event()
        if isinstance(request_iterator, MessageStream):
            idle = request_iterator.idle
        stream = InferStream(
            self._gateway,
            caller_of(context),
            time_remaining=context.time_remaining,
            idle=idle,
        )
        async with aclosing(stream.replies(request_iterator)) as replies:
            async for reply in replies:
                yield reply

    async def _model(self, caller: Caller, name: str, version: str) -> api.GetModelResponse:
        """The model. Raises UnknownReference for another one."""
        model = await self._gateway.model(caller, api.GetModelRequest())
        check_model(model, name, version)
        return model

    async def _answer(
        self, caller: Caller, inference: Inference, time_limit_s: float | None
    ) -> Answer:
        """The whole answer to a request. A client that leaves cancels one that it has not named."""
        running = await Running.start(self._gateway, caller, inference, time_limit_s)
        answer = Answer(inference)
        answer.take(running.accepted)
        try:
            async for event in running.events:
                answer.take(event)
        except asyncio.CancelledError:
            await running.leave()
            raise
        return answer


def register(server: aio.Server, health: Health, gateway: Gateway) -> Sequence[str]:
    """Add the service to a server; the names of the services added."""
    add_GRPCInferenceServiceServicer_to_server(InferenceServicer(gateway, health), server)
    return [_SERVICE]


def _metadata(tensor: TensorInfo) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=tensor.name, datatype=tensor.datatype, shape=tensor.shape
    )
