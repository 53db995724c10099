"""A chat completion as JSON: what is common to all of it, and the whole body."""

from typing import Any

from gateway.doors.http.answer import Answer, ChoiceAnswer
from gateway.doors.http.json_text import json_bytes
from gateway.doors.http.openai.logprobs import LogprobWriter, Vocabulary
from gateway.doors.http.usage import total_usage
from glm4v.v1 import inference_pb2 as api

REASONS = {api.FINISH_REASON_STOP: "stop", api.FINISH_REASON_LENGTH: "length"}


class Completion:
    """What all JSON of one completion has in common.

    Args:
        accepted: The request.
        created: Unix time in seconds.
        model: Name of the model.
        fingerprint: Of the model.
        with_stop_string: Whether a stop string is part of the text.
        vocabulary: For log-probabilities; None leaves them out.
    """

    def __init__(
        self,
        accepted: api.Accepted,
        *,
        created: int,
        model: str,
        fingerprint: str,
        with_stop_string: bool = False,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        self.id = f"chatcmpl-{accepted.request_id}"
        self.created = created
        self.model = model
        self.fingerprint = f"fp_{fingerprint[:12]}"
        self.n = accepted.n
        self._with_stop_string = with_stop_string
        self.logprobs = LogprobWriter(vocabulary) if vocabulary else None

    def last_text(self, finished: api.Finished) -> str:
        """The text at the end of a choice."""
        return finished.text + (finished.stop_string if self._with_stop_string else "")

    def body(self, answer: Answer) -> bytes:
        """A whole completion."""
        head = {"id": self.id, "object": "chat.completion", **self._common()}
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": self._text(choice)},
                "logprobs": self.logprobs
                and {"content": self.logprobs.content(0, choice.logprobs)},
                "finish_reason": REASONS[choice.finished.reason],
            }
            for index, choice in enumerate(answer.choices)
        ]
        usages = [choice.finished.usage for choice in answer.choices]
        return json_bytes({**head, "choices": choices, "usage": usage_object(usages)})

    def chunk_head(self) -> bytes:
        """A chunk up to its choices."""
        head = {"id": self.id, "object": "chat.completion.chunk", **self._common()}
        return json_bytes(head)[:-1] + b',"choices":['

    def _common(self) -> dict[str, Any]:
        return {
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def _text(self, choice: ChoiceAnswer) -> str:
        return choice.text + (choice.finished.stop_string if self._with_stop_string else "")


def usage_object(usages: list[api.Usage]) -> dict[str, int]:
    """Token counts of all choices."""
    prompt, completion = total_usage(usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
