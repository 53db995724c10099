"""The stream of a request, which survives lost connections and gateways."""

import contextlib
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Protocol

import grpc

from glm4v.client.choice import Choice
from glm4v.client.transport import Backoff, Breaks, BrokenOff, seconds_until, to_error
from glm4v.errors import DeadlinePassed, Glm4vError, RequestFailed, Unavailable
from glm4v.v1 import inference_pb2 as pb
from glm4v.v1.inference_pb2_grpc import InferenceServiceStub


class _Events(Protocol):
    """What gRPC gives for a stream of replies."""

    def __next__(self) -> pb.GenerateResponse | pb.AttachResponse: ...

    def cancel(self) -> object: ...


class Generation:
    """An iterator of `GenerationEvent`: accepted, progress and deltas, finished for each choice.

    Use it as a context manager: leaving it early cancels a request that `generate` started, and
    leaves one that `attach` joined running. After a lost connection it attaches again where it was,
    so that no event is lost or repeated. It raises the errors of `glm4v.errors`.

    Attributes:
        request_id: For Attach and Cancel.
        choices: The choices so far; one unless the request asks for more.
        accepted, prompt_logprobs: The events, once received.
    """

    def __init__(
        self,
        stub: InferenceServiceStub,
        request: pb.GenerateRequest | pb.AttachRequest,
        *,
        cancel: Callable[[], object] | None,
        target: str,
        timeout_s: float,
        retry_timeout_s: float,
    ) -> None:
        self.request_id = request.request_id
        resumed = isinstance(request, pb.AttachRequest) and request.token_offsets
        self.choices = [Choice(offset) for offset in resumed or [0]]
        self.accepted: pb.Accepted | None = None
        self.prompt_logprobs: pb.PromptLogprobs | None = None
        self._stub = stub
        self._request = request
        self._cancel = cancel
        self._target = target
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._retry_timeout_s = retry_timeout_s
        self._backoff: Backoff | None = None  # while the gateway is unavailable
        self._breaks = Breaks(request)
        self._outage_began = 0.0
        self._is_over = False
        self._call = self._open()

    @property
    def text(self) -> str:
        """The text of the first choice; reads the stream to its end."""
        for _ in self:
            pass
        return self.choices[0].text

    @property
    def token_ids(self) -> list[int]:
        """Tokens of the first choice received so far."""
        return self.choices[0].token_ids

    @property
    def finished(self) -> pb.Finished | None:
        """The end of the first choice, once received."""
        return self.choices[0].finished

    def texts(self) -> Iterator[str]:
        """The text of the first choice in pieces, as they become final."""
        for event in self:
            piece = event.delta.text or event.finished.text
            if piece and event.choice == 0:
                yield piece

    def close(self) -> None:
        """Stop reading. Cancels the request if `generate` started it and it has not ended."""
        if self._is_over:
            return
        self._is_over = True
        if self._cancel is not None:
            # If no gateway answers, the orphan timeout ends the request.
            with contextlib.suppress(Glm4vError):
                self._cancel()
        self._call.cancel()

    def __iter__(self) -> Iterator[pb.GenerationEvent]:
        return self

    def __next__(self) -> pb.GenerationEvent:
        while not self._is_over:
            try:
                event = next(self._call).event
            except StopIteration:
                self._reconnect(BrokenOff(f"{self._target} ended the stream before the answer"))
            except grpc.RpcError as error:
                outage_s = time.monotonic() - self._outage_began if self._backoff else 0.0
                self._reconnect(to_error(error, self._target, self._timeout_s, outage_s))
            else:
                if self._record(event):
                    return event
        raise StopIteration

    def __enter__(self) -> "Generation":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self) -> _Events:
        timeout_s = seconds_until(self._deadline)
        if self.accepted is None and isinstance(self._request, pb.GenerateRequest):
            # After a lost reply too: a known request id attaches.
            return self._stub.Generate(self._request, timeout=timeout_s)
        offsets = [choice.num_received for choice in self.choices]
        attach = pb.AttachRequest(request_id=self.request_id, token_offsets=offsets)
        return self._stub.Attach(attach, timeout=timeout_s)

    def _reconnect(self, failure: Glm4vError) -> None:
        """Call again after a pause. Raises the failure if it is final or the time is over.

        The time is `retry_timeout_s`, and the number of broken calls is limited, until the request
        is accepted; then it is the deadline.
        """
        if not isinstance(failure, Unavailable) or self._is_over:  # closed by another thread
            self._is_over = True
            raise failure from None
        if self.accepted is None:
            self._check_breaks(failure)
        now = time.monotonic()
        if self._backoff is None:
            self._outage_began = now
            waits = (
                self._deadline
                if self.accepted
                else min(self._deadline, now + self._retry_timeout_s)
            )
            self._backoff = Backoff(waits)
        if not self._backoff.pause():
            self._is_over = True
            if now >= self._deadline:
                raise DeadlinePassed(
                    f"no complete answer within {self._timeout_s:g} s; {failure}"
                ) from None
            raise failure from None
        for choice in self.choices:
            choice.reconnect()
        self._call = self._open()

    def _check_breaks(self, failure: Glm4vError) -> None:
        try:
            self._breaks.check(failure)
        except Unavailable:
            self._is_over = True
            raise

    def _record(self, event: pb.GenerationEvent) -> bool:
        """Record an event; true if it is new."""
        is_new = self._record_event(event)
        if is_new:
            self._backoff = None
        return is_new

    def _record_event(self, event: pb.GenerationEvent) -> bool:
        kind = event.WhichOneof("event")
        if kind == "accepted":
            is_new = self.accepted is None
            if self.accepted is None:  # a repeated one lacks the prompt's ids
                self.accepted = event.accepted
            self.choices += [Choice() for _ in range(event.accepted.n - len(self.choices))]
            return is_new
        if kind == "prompt_logprobs":
            is_new = self.prompt_logprobs is None
            self.prompt_logprobs = event.prompt_logprobs
            return is_new
        choice = self.choices[event.choice] if event.choice < len(self.choices) else None
        try:
            if choice is None:
                raise RequestFailed(
                    f"protocol error: got choice {event.choice} of {len(self.choices)}"
                )
            is_new = choice.record(event)
        except RequestFailed as error:
            self._is_over = True
            raise RequestFailed(f"{self._target}: {error}") from None
        self._is_over = all(choice.finished is not None for choice in self.choices)
        return is_new
