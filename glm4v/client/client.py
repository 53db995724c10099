"""The client of gateways. It needs grpcio and protobuf, nothing else.

with Client("127.0.0.1:8330") as client:
    question = user_message("What is this?", Path("photo.jpg").read_bytes())
    with client.generate([question]) as answer:
        for piece in answer.texts():
            print(piece, end="", flush=True)
"""

import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TypeVar, Unpack

import grpc
from google.protobuf.message import Message

from glm4v.client.channel import ChannelOptions
from glm4v.client.generation import Generation
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
from glm4v.v1 import inference_pb2 as pb
from glm4v.v1.inference_pb2_grpc import InferenceServiceStub

_Request = TypeVar("_Request", bound=Message)
_Reply = TypeVar("_Reply")


class Client:
    """A connection to gateways, for any number of threads and concurrent requests.

    An image goes up once; later requests of this client name it by its digest.

    Args:
        targets: HOST:PORT, unix:PATH or any other gRPC name of gateways with a common Redis. One of
            them is used until it fails, and then the next one. Default: 127.0.0.1:8330.
        timeout_s: Default deadline of a request, in seconds; `math.inf` sets none. Other calls end
            after a minute at the latest.
        retry_timeout_s: How long to retry gateways that do not answer, in seconds. An accepted
            request is retried until its deadline.
        api_key: The key of a gateway that asks for one. Use TLS with it: it is sent as it is.
        tls: For gateways with TLS: `Tls(ca="ca.crt")`; None connects without TLS.

    All methods raise the errors of `glm4v.errors`.
    """

    def __init__(
        self,
        *targets: str,
        timeout_s: float = 600.0,
        retry_timeout_s: float = 10.0,
        api_key: str | None = None,
        tls: Tls | None = None,
    ) -> None:
        self._session = Session(
            targets,
            timeout_s=timeout_s,
            retry_timeout_s=retry_timeout_s,
            api_key=api_key,
            tls=tls,
            open_channel=_open_channel,
            make_stub=InferenceServiceStub,
        )

    def connect(self, within_s: float) -> None:
        """Wait until a gateway can be reached. Raises Unavailable, with the reason, if none can.

        Optional, for an early error: every call connects by itself.
        """
        gateways = self._session.gateways
        share_s = within_s / len(gateways)
        for _ in range(len(gateways)):
            gateway = gateways.current()
            try:
                return grpc.channel_ready_future(gateway.channel).result(share_s)
            except grpc.FutureTimeoutError:
                gateways.leave(gateway.target)
        gateway = gateways.current()
        try:
            gateway.stub.GetModel(pb.GetModelRequest(), timeout=REASON_S)
        except grpc.RpcError as error:
            raise unreachable(error, gateway.target, within_s) from None

    def generate(
        self,
        messages: Iterable[pb.Message] = (),
        *,
        timeout_s: float | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Generation:
        """Start a request with the fields of `GenerateOptions`.

        The client chooses a random request id if none is given, so that a retry after a lost reply
        does not run the request twice.
        """
        return Generation(
            self._session, generate_request(messages, options), timeout_s, self._cancel_early
        )

    def attach(
        self, request_id: str, *token_offsets: int, timeout_s: float | None = None
    ) -> Generation:
        """Stream an existing request, after the first `token_offsets` tokens of each choice."""
        request = attach_request(request_id, token_offsets)
        return Generation(self._session, request, timeout_s, self._cancel_early)

    def cancel(self, request_id: str) -> bool:
        """Cancel a request. False if it had ended before."""
        return self._call(_cancel, cancel_request(request_id), SHORT_CALL_S).cancelled

    def count_tokens(self, messages: Iterable[pb.Message]) -> pb.CountTokensResponse:
        """The length of a conversation."""
        request = pb.CountTokensRequest(messages=messages)
        return self._call(lambda stub: stub.CountTokens, request, SHORT_CALL_S)

    def get_model(self) -> pb.GetModelResponse:
        """The model, its defaults and its limits."""
        return self._call(lambda stub: stub.GetModel, pb.GetModelRequest(), SHORT_CALL_S)

    def close(self) -> None:
        """Close the connections and all open streams. Requests that run go on until orphaned."""
        for channel in self._session.gateways.close():
            channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _cancel_early(self, request_id: str) -> None:
        self._call(_cancel, pb.CancelRequest(request_id=request_id), CANCEL_TIMEOUT_S)

    def _call(
        self,
        method: "Callable[[InferenceServiceStub], grpc.UnaryUnaryMultiCallable[_Request, _Reply]]",
        request: _Request,
        at_most_s: float,
    ) -> _Reply:
        """The reply to an idempotent call, which is tried again while no gateway answers."""
        attempts = self._session.attempts(request, min(self._session.timeout_s, at_most_s))
        while True:
            gateway = self._session.gateways.current()
            try:
                return method(gateway.stub)(
                    request, timeout=attempts.timeout_s, metadata=self._session.metadata
                )
            except grpc.RpcError as error:
                failure = self._session.failure(error, gateway.target, attempts)
            time.sleep(attempts.pause_after(failure, is_accepted=False))


def _open_channel(
    target: str, credentials: grpc.ChannelCredentials | None, options: ChannelOptions
) -> grpc.Channel:
    if credentials is None:
        return grpc.insecure_channel(target, options=options)
    return grpc.secure_channel(target, credentials, options=options)


def _cancel(
    stub: InferenceServiceStub,
) -> "grpc.UnaryUnaryMultiCallable[pb.CancelRequest, pb.CancelResponse]":
    return stub.Cancel
