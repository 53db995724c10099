"""Frames of TGI's streams, in both dialects."""

from collections.abc import Iterable
from typing import Any

from gateway.doors.http.json_text import json_bytes
from gateway.doors.http.mindie.frames import finish_reason
from gateway.doors.http.steps import Step
from gateway.doors.http.tgi.tokens import TokenWriter
from gateway.doors.http.usage import prompt_tokens


class TgiFrames:
    """Frames of TGI: one token each, numbered from 1.

    Args:
        tokens: Writes tokens.
        seed: In use; None if nothing is drawn.
        prompt: What the whole text begins with.
        alternatives: How many are reported for each token; 0 leaves them out.
    """

    def __init__(
        self, tokens: TokenWriter, *, seed: int | None, prompt: str = "", alternatives: int = 0
    ) -> None:
        self._tokens = tokens
        self._seed = seed
        self._text = [prompt]
        self._alternatives = alternatives
        self._index = 0

    def write(self, step: Step) -> Iterable[bytes]:
        """A payload for each token. The text of several tokens comes with the last one."""
        self._text.append(step.text)
        last = len(step.token_ids) - 1
        return [
            json_bytes(self._frame(step, at, step.text if at == last else "", at == last))
            for at in range(len(step.token_ids))
        ]

    def _frame(self, step: Step, at: int, text: str, is_last: bool) -> dict[str, Any]:
        self._index += 1
        found = step.logprobs[at] if at < len(step.logprobs) else None
        logprob = None if found is None else found.chosen.logprob
        frame: dict[str, Any] = {
            "index": self._index,
            "token": self._tokens.token(step.token_ids[at], logprob, text),
        }
        if self._alternatives and found is not None:
            frame["top_tokens"] = self._tokens.alternatives(found)
        finished = step.finished if is_last else None
        frame["generated_text"] = None if finished is None else "".join(self._text)
        frame["details"] = None
        if finished is not None:
            frame["details"] = {
                "finish_reason": finish_reason(finished),
                "generated_tokens": finished.usage.completion_tokens,
                "seed": self._seed,
                "input_length": prompt_tokens(finished.usage),
            }
        return frame


class MindieTgiFrames:
    """Frames of MindIE: the ids of a step as a list, no log-probabilities."""

    def __init__(self, *, seed: int, with_details: bool) -> None:
        self._seed = seed
        self._with_details = with_details
        self._text: list[str] = []

    def write(self, step: Step) -> Iterable[bytes]:
        """The payload of a step."""
        self._text.append(step.text)
        token = {"id": list(step.token_ids), "text": step.text, "logprob": None, "special": None}
        frame: dict[str, Any] = {"token": token, "generated_text": None, "details": None}
        finished = step.finished
        if finished is not None:
            frame["generated_text"] = "".join(self._text)
            if self._with_details:
                frame["details"] = {
                    "prompt_tokens": prompt_tokens(finished.usage),
                    "finish_reason": finish_reason(finished),
                    "generated_tokens": finished.usage.completion_tokens,
                    "seed": self._seed,
                }
        return [json_bytes(frame)]
