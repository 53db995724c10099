"""Events of an answer as tensors of the Open Inference Protocol."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gateway.doors.kserve.inference import Inference
from gateway.doors.kserve.model import FINISH_REASON, INPUT_TOKENS, OUTPUT_TOKENS, TEXT_OUTPUT
from gateway.doors.kserve.tensors import BYTES, pack, pack_counts
from glm4v.v1 import inference_pb2 as api

_REASONS = {api.FINISH_REASON_STOP: "stop", api.FINISH_REASON_LENGTH: "length"}


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor of an answer: its elements, and the same in the binary form."""

    name: str
    datatype: str
    shape: Sequence[int]
    elements: Sequence[str] | Sequence[int]
    data: bytes


@dataclass(slots=True)
class Answer:
    """A whole answer, of one choice or of several.

    Attributes:
        request_id: That of the gateway, for Attach and Cancel.
    """

    inference: Inference
    request_id: str = ""
    seed: int = 0
    texts: list[str] = field(default_factory=list)
    ends: list[api.Finished] = field(default_factory=list)

    def take(self, event: api.GenerationEvent) -> str:
        """Add an event; the text that it brings."""
        kind = event.WhichOneof("event")
        if kind == "delta":
            self.texts[event.choice] += event.delta.text
            return event.delta.text
        if kind == "finished":
            self.texts[event.choice] += event.finished.text
            self.ends[event.choice] = event.finished
            return event.finished.text
        if kind == "accepted":
            self.request_id, self.seed = event.accepted.request_id, event.accepted.seed
            self.texts = [self.inference.prefix] * event.accepted.n
            self.ends = [api.Finished()] * event.accepted.n
        return ""

    def outputs(self, texts: Sequence[str] | None = None) -> list[Output]:
        """The tensors that the request asked for; `texts` in place of the whole answers."""
        usages = [each.usage for each in self.ends]
        rank = self.inference.rank
        make: dict[str, Callable[[], Output]] = {
            TEXT_OUTPUT: lambda: _strings(
                TEXT_OUTPUT, self.texts if texts is None else texts, rank
            ),
            FINISH_REASON: lambda: _strings(FINISH_REASON, self.finish_reasons, rank),
            INPUT_TOKENS: lambda: _counts(INPUT_TOKENS, [usages[0].prompt_tokens], rank),
            OUTPUT_TOKENS: lambda: _counts(
                OUTPUT_TOKENS, [each.completion_tokens for each in usages], rank
            ),
        }
        return [make[name]() for name in self.inference.outputs]

    def text(self, text: str) -> Output:
        """The tensor of a part of the text."""
        return _strings(TEXT_OUTPUT, [text], self.inference.rank)

    @property
    def finish_reasons(self) -> list[str]:
        """Why each choice ended: stop or length."""
        return [_REASONS[each.reason] for each in self.ends]


def _strings(name: str, texts: Sequence[str], rank: int) -> Output:
    data = pack([text.encode() for text in texts])
    return Output(name, BYTES, _shape(len(texts), rank), texts, data)


def _counts(name: str, counts: Sequence[int], rank: int) -> Output:
    return Output(name, "UINT32", _shape(len(counts), rank), counts, pack_counts(counts))


def _shape(size: int, rank: int) -> list[int]:
    return [*[1] * (rank - 1), size]
