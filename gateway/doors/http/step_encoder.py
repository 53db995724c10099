"""The encoder of formats whose frames are made from steps."""

from collections.abc import Callable, Iterable, Sequence

from gateway.doors.http.running import Running
from gateway.doors.http.steps import Step, Steps
from glm4v.v1 import inference_pb2 as api

Write = Callable[[Step], Iterable[bytes]]


class StepEncoder:
    """Writes frames from steps, and tells the client's position without the token it holds.

    The last frame has the whole text, so the events of a stream that is resumed begin at the first
    token, and the frames that its client has are not sent again.

    Args:
        running: The request.
        steps: Makes the steps.
        write: The payloads of a step; it sees each step of the answer once, in order.
    """

    def __init__(self, running: Running, steps: Steps, write: Write) -> None:
        self._position = running.position
        self._received = list(running.position.tokens)
        self._ended = frozenset(running.position.ended)
        self._sent = [0] * len(self._received)
        self._steps = steps
        self._write = write
        steps.feed(api.GenerationEvent(accepted=running.accepted))

    def begin(self, accepted: api.Accepted) -> Iterable[bytes]:
        """See Encoder."""
        return ()

    def delta(self, choice: int, delta: api.Delta) -> Iterable[bytes]:
        """See Encoder."""
        return self._payloads(self._steps.feed(api.GenerationEvent(choice=choice, delta=delta)))

    def finished(self, choice: int, finished: api.Finished) -> Iterable[bytes]:
        """See Encoder."""
        event = api.GenerationEvent(choice=choice, finished=finished)
        return self._payloads(self._steps.feed(event))

    def complete(self) -> Iterable[bytes]:
        """See Encoder."""
        return ()

    def end(self) -> Iterable[bytes]:
        """See Encoder."""
        return ()

    def _payloads(self, steps: Sequence[Step]) -> list[bytes]:
        payloads: list[bytes] = []
        for step in steps:
            written = self._write(step)
            if self._is_new(step):
                payloads += written
            self._sent[step.choice] += len(step.token_ids)
        for choice, sent in enumerate(self._sent):
            self._position.tokens[choice] = max(sent, self._received[choice])
        return payloads

    def _is_new(self, step: Step) -> bool:
        if step.finished is not None:
            return step.choice not in self._ended
        return self._sent[step.choice] >= self._received[step.choice]


async def stop_ids(running: Running, request: api.GenerateRequest) -> frozenset[int]:
    """The tokens that may end an answer to a request."""
    own = request.stop_token_ids
    if request.ignore_eos:
        return frozenset(own)
    model = await running.gateway.model(running.terms.caller, api.GetModelRequest())
    return frozenset([*own, *model.eos_token_ids])
