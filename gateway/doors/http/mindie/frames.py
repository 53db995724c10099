"""The answers and the frames of /infer."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from gateway.doors.http.answer import ChoiceAnswer
from gateway.doors.http.json_text import json_bytes
from gateway.doors.http.steps import Step
from glm4v.v1 import inference_pb2 as api


def finish_reason(finished: api.Finished) -> str:
    """Why an answer ended, in the words of MindIE and of TGI.

    An answer that its response format ends is as complete as one that the model ends.
    """
    if finished.reason == api.FINISH_REASON_LENGTH:
        return "length"
    return "stop_sequence" if finished.WhichOneof("matched") == "stop_string" else "eos_token"


def answer_body(choice: ChoiceAnswer, *, seed: int, with_details: bool) -> dict[str, Any]:
    """The body of a whole answer."""
    body: dict[str, Any] = {"generated_text": choice.text}
    if with_details:
        body["details"] = {
            "finish_reason": finish_reason(choice.finished),
            "generated_tokens": choice.finished.usage.completion_tokens,
            "generated_token_ids": choice.token_ids,
            "seed": seed,
        }
    return body


class InferFrames:
    """Writes the frames of one stream.

    Times are milliseconds on this gateway's clock: to the first token from the beginning of the
    stream, then from frame to frame.
    """

    def __init__(
        self, *, seed: int, with_details: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seed = seed
        self._with_details = with_details
        self._clock = clock
        self._written_at = clock()
        self._is_first = True
        self._text: list[str] = []

    def write(self, step: Step) -> Iterable[bytes]:
        """The payload of a step."""
        self._text.append(step.text)
        frame = self._times()
        text: str | None = step.text
        if step.finished is not None:
            text = step.text or None
            frame["generated_text"] = "".join(self._text)
            frame["details"] = self._details(step.finished) if self._with_details else None
        frame["token"] = {"id": list(step.token_ids), "text": text}
        return [json_bytes(frame)]

    def _times(self) -> dict[str, Any]:
        now = self._clock()
        passed_ms = round(1000 * (now - self._written_at), 3)
        self._written_at = now
        is_first, self._is_first = self._is_first, False
        return {
            "prefill_time": passed_ms if is_first else None,
            "decode_time": None if is_first else passed_ms,
        }

    def _details(self, finished: api.Finished) -> dict[str, Any]:
        return {
            "finish_reason": finish_reason(finished),
            "generated_tokens": finished.usage.completion_tokens,
            "seed": self._seed,
        }
