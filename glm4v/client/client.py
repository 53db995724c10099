"""The client of a gateway. It needs grpcio and protobuf, nothing else.

with Client("127.0.0.1:8330") as client:
    question = user_message("What is this?", Path("photo.jpg").read_bytes())
    with client.generate([question]) as answer:
        for piece in answer.texts():
            print(piece, end="", flush=True)
"""

import uuid
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import grpc
from google.protobuf.message import Message

from glm4v.client.generation import Generation
from glm4v.client.options import GenerateOptions, build_request
from glm4v.client.transport import check_timeout, open_channel, to_error, unary
from glm4v.errors import InvalidRequest, Unavailable
from glm4v.v1 import inference_pb2 as pb
from glm4v.v1.inference_pb2_grpc import InferenceServiceStub

if TYPE_CHECKING:  # in `typing` from Python 3.11 on
    from typing_extensions import Unpack

DEFAULT_TARGET = "127.0.0.1:8330"
_REASON_S = 0.2  # for a call that returns the reason why gRPC cannot connect
_CANCEL_TIMEOUT_S = 5.0  # of the Cancel call when a generation is closed early

_Request = TypeVar("_Request", bound=Message)
_Reply = TypeVar("_Reply")


class Client:
    """A connection to a gateway, for any number of threads and concurrent requests.

    Args:
        target: HOST:PORT, unix:PATH or any other gRPC name.
        timeout_s: Default deadline of a request, in seconds; `math.inf` sets none.
        retry_timeout_s: How long to retry a gateway that does not answer, in seconds. An
            accepted request is retried until its deadline.
        credentials: For a gateway with TLS, for example `grpc.ssl_channel_credentials(ca)`; None
            connects without TLS.

    All methods raise the errors of `glm4v.errors`.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout_s: float = 600.0,
        retry_timeout_s: float = 10.0,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._target = target
        self._timeout_s = check_timeout("timeout_s", timeout_s)
        self._retry_timeout_s = retry_timeout_s
        self._channel = open_channel(target, credentials)
        self._stub = InferenceServiceStub(self._channel)

    def connect(self, within_s: float) -> None:
        """Wait until the gateway can be reached. Raises Unavailable, with the reason, if it cannot.

        Optional, for an early error: every call connects by itself.
        """
        try:
            grpc.channel_ready_future(self._channel).result(within_s)
        except grpc.FutureTimeoutError:
            try:
                self._stub.GetModel(pb.GetModelRequest(), timeout=_REASON_S)
            except grpc.RpcError as error:
                failure = to_error(error, self._target, within_s, within_s)
                if not isinstance(failure, Unavailable):  # gRPC gave no reason
                    failure = Unavailable(
                        f"{self._target} did not answer within {within_s:g} s; "
                        "is the gateway running there?"
                    )
                raise failure from None

    def generate(
        self,
        messages: Iterable[pb.Message],
        *,
        timeout_s: float | None = None,
        **options: "Unpack[GenerateOptions]",
    ) -> Generation:
        """Start a request with the fields of `GenerateOptions`.

        The client chooses a random request id if none is given, so that a retry after a lost reply
        does not run the request twice.
        """
        request = build_request(messages, options)
        request.request_id = request.request_id or uuid.uuid4().hex
        return self._generation(request, timeout_s)

    def attach(
        self, request_id: str, *token_offsets: int, timeout_s: float | None = None
    ) -> Generation:
        """Stream an existing request, after the first `token_offsets` tokens of each choice."""
        request = pb.AttachRequest(request_id=_sendable(request_id))
        try:
            request.MergeFrom(pb.AttachRequest(token_offsets=token_offsets))
        except ValueError as error:
            given = ", ".join(map(str, token_offsets))
            raise InvalidRequest(f"token_offsets are {given}: {error}") from None
        return self._generation(request, timeout_s)

    def cancel(self, request_id: str) -> bool:
        """Cancel a request. False if it had ended before."""
        request = pb.CancelRequest(request_id=_sendable(request_id))
        return self._call(self._stub.Cancel, request).cancelled

    def count_tokens(self, messages: Iterable[pb.Message]) -> pb.CountTokensResponse:
        """The length of a conversation."""
        return self._call(self._stub.CountTokens, pb.CountTokensRequest(messages=messages))

    def get_model(self) -> pb.GetModelResponse:
        """The model, its defaults and its limits."""
        return self._call(self._stub.GetModel, pb.GetModelRequest())

    def close(self) -> None:
        """Close the connection and all open streams."""
        self._channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _generation(
        self, request: pb.GenerateRequest | pb.AttachRequest, timeout_s: float | None
    ) -> Generation:
        def cancel() -> None:
            call = pb.CancelRequest(request_id=request.request_id)
            self._call(self._stub.Cancel, call, timeout_s=_CANCEL_TIMEOUT_S)

        return Generation(
            self._stub,
            request,
            cancel=cancel if isinstance(request, pb.GenerateRequest) else None,
            target=self._target,
            timeout_s=self._timeout_s
            if timeout_s is None
            else check_timeout("timeout_s", timeout_s),
            retry_timeout_s=self._retry_timeout_s,
        )

    def _call(
        self,
        call: "grpc.UnaryUnaryMultiCallable[_Request, _Reply]",
        request: _Request,
        timeout_s: float | None = None,
    ) -> _Reply:
        return unary(
            call,
            request,
            target=self._target,
            timeout_s=self._timeout_s if timeout_s is None else timeout_s,
            retry_timeout_s=self._retry_timeout_s,
        )


def _sendable(request_id: str) -> str:
    try:
        request_id.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"request_id: not Unicode text at character {error.start}") from None
    return request_id
