"""What was received of an answer, and how its stream goes on. No input or output happens here."""

from typing import Any, Generic, TypeVar

import grpc

from glm4v.client.choice import Choice
from glm4v.client.failure import BrokenOff
from glm4v.client.session import Session
from glm4v.errors import Glm4vError, RequestFailed, UnknownReference
from glm4v.v1 import inference_pb2 as pb

_Stub = TypeVar("_Stub")


class Answer(Generic[_Stub]):
    """The choices of a request, each event once across reconnections.

    Attributes:
        request_id: For Attach and Cancel.
        choices: The choices so far; one unless the request asks for more.
        accepted, prompt_logprobs: The events, once received.
    """

    def __init__(
        self,
        session: Session[Any, _Stub],
        request: pb.GenerateRequest | pb.AttachRequest,
        timeout_s: float | None,
    ) -> None:
        self.request_id = request.request_id
        self.accepted: pb.Accepted | None = None
        self.prompt_logprobs: pb.PromptLogprobs | None = None
        self._session = session
        self._attempts = session.attempts(request, timeout_s)
        self._request: pb.GenerateRequest | None = None  # until it is accepted
        self._smaller: pb.GenerateRequest | None = None  # the same, with its image by digest
        offsets = [0]
        if isinstance(request, pb.GenerateRequest):
            self._request, self._smaller = request, session.images.by_digest(request)
        elif request.token_offsets:
            offsets = [*request.token_offsets]
        self.choices = [Choice(offset) for offset in offsets]
        self._is_ours = self._request is not None  # to be cancelled when it is left early
        self._is_over = False

    @property
    def token_ids(self) -> list[int]:
        """Tokens of the first choice received so far."""
        return self.choices[0].token_ids

    @property
    def finished(self) -> pb.Finished | None:
        """The end of the first choice, once received."""
        return self.choices[0].finished

    def _next_call(self) -> pb.GenerateRequest | pb.AttachRequest:
        """What to ask a gateway for. The same request again attaches, if it was accepted."""
        if self._request is not None:
            return self._smaller or self._request
        for choice in self.choices:
            choice.reconnect()
        offsets = [choice.num_received for choice in self.choices]
        return pb.AttachRequest(request_id=self.request_id, token_offsets=offsets)

    def _pause_after(self, failure: Glm4vError) -> float:
        """Seconds to wait before the next call. Raises the failure if it is final."""
        if self._smaller is not None and isinstance(failure, UnknownReference):
            self._session.images.forget(self._smaller)  # the store has let it go
            self._smaller = None
            return 0.0
        try:
            return self._attempts.pause_after(failure, is_accepted=self.accepted is not None)
        except Glm4vError:
            self._is_over = True
            raise

    def _failure(self, error: grpc.RpcError | None, target: str) -> Glm4vError:
        """The error of a call that failed, or whose stream ended early."""
        if error is None:
            self._session.gateways.leave(target)
            return BrokenOff(f"{target} ended the stream before the answer")
        return self._session.failure(error, target, self._attempts)

    def _record(self, event: pb.GenerationEvent, target: str) -> bool:
        """Record an event of a gateway; true if it is new. Raises RequestFailed for a gap."""
        try:
            is_new = self._record_event(event)
        except RequestFailed as error:
            self._is_over = True
            raise RequestFailed(f"{target}: {error}") from None
        if is_new:
            self._attempts.succeeded()
        return is_new

    def _record_event(self, event: pb.GenerationEvent) -> bool:
        kind = event.WhichOneof("event")
        if kind == "accepted":
            return self._record_accepted(event.accepted)
        if kind == "prompt_logprobs":
            is_new = self.prompt_logprobs is None
            self.prompt_logprobs = event.prompt_logprobs
            return is_new
        if event.choice >= len(self.choices):
            raise RequestFailed(f"protocol error: got choice {event.choice} of {len(self.choices)}")
        is_new = self.choices[event.choice].record(event)
        self._is_over = all(choice.finished is not None for choice in self.choices)
        return is_new

    def _record_accepted(self, accepted: pb.Accepted) -> bool:
        self.choices += [Choice() for _ in range(accepted.n - len(self.choices))]
        if self.accepted is not None:
            return False  # a repeated one lacks the prompt's ids
        self.accepted = accepted
        self._request = self._smaller = None  # frees the image
        if accepted.image_digest:
            self._session.images.remember(accepted.image_digest)
        return True
