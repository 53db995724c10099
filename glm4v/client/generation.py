"""One answer on its way: events in order, each token once, whatever happens to the connection."""

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

    Use it as a context manager: leaving it before the end cancels a request that was started here,
    and lets one that was attached to run on. When the connection or the gateway is lost it goes on
    from where it was; events are neither lost nor repeated. It raises `glm4v.errors`.

    Attributes:
        request_id: For Attach and Cancel.
        choices: The answers so far; one unless the request asks for more.
        accepted, prompt_logprobs: Those events, once they were read.
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
        self._patience_s = retry_timeout_s
        self._patience: Backoff | None = None  # while the gateway is away
        self._breaks = Breaks(request)
        self._away_since = 0.0
        self._is_over = False
        self._call = self._open()

    @property
    def text(self) -> str:
        """The answer; reads what is still to come. Of several choices the first."""
        for _ in self:
            pass
        return self.choices[0].text

    @property
    def token_ids(self) -> list[int]:
        """Tokens read so far. Of several choices the first's."""
        return self.choices[0].token_ids

    @property
    def finished(self) -> pb.Finished | None:
        """Why it ended, when it has. Of several choices the first."""
        return self.choices[0].finished

    def texts(self) -> Iterator[str]:
        """The answer in pieces, as they become final. Of several choices the first."""
        for event in self:
            piece = event.delta.text or event.finished.text
            if piece and event.choice == 0:
                yield piece

    def close(self) -> None:
        """Read no more; cancels the request when it was started here and is not over."""
        if self._is_over:
            return
        self._is_over = True
        if self._cancel is not None:
            # Without a gateway to tell: nobody reads the request any more, which ends it too.
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
                outage_s = time.monotonic() - self._away_since if self._patience else 0.0
                self._reconnect(to_error(error, self._target, self._timeout_s, outage_s))
            else:
                if self._take(event):
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
            # Also after a lost reply: a request id that is known attaches.
            return self._stub.Generate(self._request, timeout=timeout_s)
        offsets = [choice.num_received for choice in self.choices]
        attach = pb.AttachRequest(request_id=self.request_id, token_offsets=offsets)
        return self._stub.Attach(attach, timeout=timeout_s)

    def _reconnect(self, failure: Glm4vError) -> None:
        """Call again after a pause. Raises the failure when that is of no use, or for too long.

        Before the request was accepted the time is `retry_timeout_s` and breaks are counted;
        afterwards it is what is left.
        """
        if not isinstance(failure, Unavailable) or self._is_over:  # closed by another thread
            self._is_over = True
            raise failure from None
        if self.accepted is None:
            self._check_breaks(failure)
        now = time.monotonic()
        if self._patience is None:
            self._away_since = now
            waits = self._deadline if self.accepted else min(self._deadline, now + self._patience_s)
            self._patience = Backoff(waits)
        if not self._patience.pause():
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

    def _take(self, event: pb.GenerationEvent) -> bool:
        """Note an event; whether it is news."""
        is_new = self._note(event)
        if is_new:
            self._patience = None
        return is_new

    def _note(self, event: pb.GenerationEvent) -> bool:
        kind = event.WhichOneof("event")
        if kind == "accepted":
            is_new = self.accepted is None
            if self.accepted is None:  # told again it lacks the prompt's ids
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
                raise RequestFailed(f"choice {event.choice} was not asked for")
            is_new = choice.take(event)
        except RequestFailed as error:
            self._is_over = True
            raise RequestFailed(f"{self._target}: {error}") from None
        self._is_over = all(choice.finished is not None for choice in self.choices)
        return is_new
