"""What the calls of a client have in common. No input or output happens here."""

import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import Message

from glm4v.client.attempts import Attempts, check_timeout
from glm4v.client.channel import ChannelOptions, channel_options
from glm4v.client.failure import to_error
from glm4v.client.gateways import Gateways
from glm4v.client.options import build_request
from glm4v.client.sent_images import SentImages
from glm4v.client.tls import Tls
from glm4v.errors import Glm4vError, InvalidRequest, Unavailable
from glm4v.v1 import inference_pb2 as pb

DEFAULT_TARGET = "127.0.0.1:8330"
SHORT_CALL_S = 60.0  # the longest deadline of calls without a stream
CANCEL_TIMEOUT_S = 5.0  # of the Cancel call when a generation is closed early
REASON_S = 0.2  # of a call that returns the reason why gRPC cannot connect
_KEY = re.compile(r"[!-~]+")  # what a header may hold, without spaces

_Channel = TypeVar("_Channel")
_Stub = TypeVar("_Stub")


class Session(Generic[_Channel, _Stub]):
    """The gateways, settings and stored images of a client, for its calls.

    Attributes:
        gateways: Where calls go.
        images: What the gateways have stored.
        metadata: What goes with every call.
        timeout_s: The deadline of a request that names none.
    """

    def __init__(
        self,
        targets: Iterable[str],
        *,
        timeout_s: float,
        retry_timeout_s: float,
        api_key: str | None,
        tls: Tls | None,
        open_channel: Callable[[str, grpc.ChannelCredentials | None, ChannelOptions], _Channel],
        make_stub: Callable[[_Channel], _Stub],
    ) -> None:
        credentials = None if tls is None else tls.credentials()
        names = [] if tls is None else tls.channel_options()
        self.gateways = Gateways(
            list(dict.fromkeys(targets)) or [DEFAULT_TARGET],
            lambda target: open_channel(target, credentials, channel_options(target) + names),
            make_stub,
        )
        self.images = SentImages()
        self.metadata = _metadata(api_key)
        self.timeout_s = check_timeout("timeout_s", timeout_s)
        self._retry_timeout_s = retry_timeout_s

    def attempts(self, request: Message, timeout_s: float | None = None) -> Attempts:
        """The attempts at a call, which begin now. Raises InvalidRequest for an odd timeout."""
        timeout_s = self.timeout_s if timeout_s is None else check_timeout("timeout_s", timeout_s)
        return Attempts(
            request.ByteSize(), timeout_s=timeout_s, retry_timeout_s=self._retry_timeout_s
        )

    def failure(self, error: grpc.RpcError, target: str, attempts: Attempts) -> Glm4vError:
        """The error of a failed call. The next call goes to another gateway if this one is away."""
        failure = to_error(error, target, attempts.total_s, attempts.outage_s)
        if isinstance(failure, Unavailable):
            self.gateways.leave(target)
        return failure


def unreachable(error: grpc.RpcError, target: str, within_s: float) -> Glm4vError:
    """Why a gateway could not be reached in time: the reason that gRPC gave, if any."""
    failure = to_error(error, target, within_s, within_s)
    if isinstance(failure, Unavailable):
        return failure
    return Unavailable(
        f"{target} did not answer within {within_s:g} s; is the gateway running there?"
    )


def generate_request(
    messages: Iterable[pb.Message], options: Mapping[str, Any]
) -> pb.GenerateRequest:
    """A request with an id. Raises InvalidRequest as `build_request`."""
    request = build_request(messages, options)
    request.request_id = request.request_id or uuid.uuid4().hex
    return request


def attach_request(request_id: str, token_offsets: tuple[int, ...]) -> pb.AttachRequest:
    """Raises InvalidRequest for what protobuf cannot hold."""
    request = pb.AttachRequest(request_id=_sendable(request_id))
    try:
        request.MergeFrom(pb.AttachRequest(token_offsets=token_offsets))
    except ValueError as error:
        given = ", ".join(map(str, token_offsets))
        raise InvalidRequest(f"token_offsets are {given}: {error}") from None
    return request


def cancel_request(request_id: str) -> pb.CancelRequest:
    """Raises InvalidRequest for what protobuf cannot hold."""
    return pb.CancelRequest(request_id=_sendable(request_id))


def _metadata(api_key: str | None) -> tuple[tuple[str, str], ...]:
    if api_key is None:
        return ()
    if _KEY.fullmatch(api_key) is None:  # the message must not have the key
        raise InvalidRequest(
            f"api_key has {len(api_key)} characters, not all of which a key may have: ASCII "
            "without spaces and line breaks; did you read it from a file with a line break?"
        )
    return (("authorization", f"Bearer {api_key}"),)


def _sendable(request_id: str) -> str:
    try:
        request_id.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"request_id: not Unicode text at character {error.start}") from None
    return request_id
