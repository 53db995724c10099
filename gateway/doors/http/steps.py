"""Events of a stream as steps, the last of which has the last token of its choice.

The last frame of MindIE and of TGI says why the answer ended and also has a token. The end of an
answer is an event of its own, so a token that may be the last one is held until the next event.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

from glm4v.v1 import inference_pb2 as api


@dataclass(frozen=True, slots=True)
class Step:
    """New tokens of one choice; in the last one `finished`, too.

    Attributes:
        token_ids: At least one, unless the reader has received all of them before.
        logprobs: One for each token, if they were asked for.
        text: What the tokens add to the answer.
    """

    choice: int
    token_ids: Sequence[int]
    logprobs: Sequence[api.TokenLogprobs]
    text: str
    finished: api.Finished | None = None


class Steps:
    """Makes steps from the events of one request.

    Args:
        stop_ids: Tokens that may end an answer.
        hold: Whether an answer may also end at any other token, as with stop strings and response
            formats. Then each token waits for the next one.
    """

    def __init__(self, stop_ids: Container[int], *, hold: bool) -> None:
        self._stop_ids = stop_ids
        self._hold = hold
        self._max_tokens = 0
        self._held: dict[int, Step] = {}  # by choice

    def feed(self, event: api.GenerationEvent) -> Sequence[Step]:
        """The steps that are complete with an event."""
        match event.WhichOneof("event"):
            case "accepted":
                self._max_tokens = event.accepted.max_tokens
            case "delta":
                return self._delta(event.choice, event.delta)
            case "finished":
                return [self._last(event.choice, event.finished)]
        return ()

    def _delta(self, choice: int, delta: api.Delta) -> Sequence[Step]:
        held = self._held.pop(choice, None)
        steps = [] if held is None else [held]
        whole = Step(choice, delta.token_ids, delta.logprobs, delta.text)
        if not self._may_end(delta):
            return [*steps, whole]
        *head, last = self._split(whole)
        self._held[choice] = last
        return [*steps, *head]

    def _may_end(self, delta: api.Delta) -> bool:
        tokens = delta.first_index + len(delta.token_ids)
        ends = delta.token_ids[-1] in self._stop_ids or tokens >= self._max_tokens
        return self._hold or ends

    def _split(self, step: Step) -> Sequence[Step]:
        """The last token apart from the others. A stop token has no text."""
        if len(step.token_ids) == 1:
            return [step]
        is_stop = step.token_ids[-1] in self._stop_ids
        head = replace(
            step,
            token_ids=step.token_ids[:-1],
            logprobs=step.logprobs[:-1],
            text=step.text if is_stop else "",
        )
        last = replace(
            step,
            token_ids=step.token_ids[-1:],
            logprobs=step.logprobs[-1:],
            text="" if is_stop else step.text,
        )
        return [head, last]

    def _last(self, choice: int, finished: api.Finished) -> Step:
        held = self._held.pop(choice, Step(choice, (), (), ""))
        return replace(held, text=held.text + finished.text, finished=finished)
