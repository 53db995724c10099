"""Answers and frames of vLLM's format, in both dialects."""

from collections.abc import Iterable
from typing import Any

from gateway.doors.http.answer import Answer
from gateway.doors.http.json_text import json_bytes
from glm4v.v1 import inference_pb2 as api


def answer_body(answer: Answer, echo: str, *, with_stop: bool) -> dict[str, Any]:
    """The body of a whole answer."""
    return {
        "text": [
            echo + choice.text + _stop_string(choice.finished, with_stop)
            for choice in answer.choices
        ]
    }


class TerminatedFraming:
    """Frames that end with a byte, with nothing before: no ids and no comments."""

    def __init__(self, terminator: bytes, media_type: str) -> None:
        self.media_type = media_type
        self._terminator = terminator

    def frames(self, payloads: Iterable[bytes], event_id: str | None) -> bytes:
        """See Framing."""
        return b"".join(payload + self._terminator for payload in payloads)

    def comment(self, text: str) -> bytes:
        """See Framing."""
        return b""

    def error(self, payload: bytes) -> bytes:
        """See Framing."""
        return payload + self._terminator


# MindIE calls its own stream server-sent events, which it is not.
MINDIE_FRAMING = TerminatedFraming(b"\0", "text/event-stream")
ORIGINAL_FRAMING = TerminatedFraming(b"\n", "application/x-ndjson")


class VllmEncoder:
    """Writes `{"text": [one for each choice]}` where there is new text.

    Args:
        count: Of choices.
        echo: What the texts begin with, if they are whole.
        is_cumulative: Whether a frame has the whole texts so far, as vLLM's, or new text only, as
            MindIE's.
        with_stop: Whether an answer ends with the stop string that it reached.
    """

    def __init__(self, count: int, *, echo: str, is_cumulative: bool, with_stop: bool) -> None:
        self._texts = [echo if is_cumulative else ""] * count
        self._is_cumulative = is_cumulative
        self._with_stop = with_stop

    def begin(self, accepted: api.Accepted) -> Iterable[bytes]:
        """See Encoder."""
        return ()

    def delta(self, choice: int, delta: api.Delta) -> Iterable[bytes]:
        """See Encoder."""
        return self._add(choice, delta.text)

    def finished(self, choice: int, finished: api.Finished) -> Iterable[bytes]:
        """See Encoder."""
        return self._add(choice, finished.text + _stop_string(finished, self._with_stop))

    def complete(self) -> Iterable[bytes]:
        """See Encoder."""
        return ()

    def end(self) -> Iterable[bytes]:
        """See Encoder."""
        return ()

    def _add(self, choice: int, text: str) -> Iterable[bytes]:
        if not text:
            return ()
        if self._is_cumulative:
            self._texts[choice] += text
            texts = self._texts
        else:
            texts = [text if number == choice else "" for number in range(len(self._texts))]
        return [json_bytes({"text": texts})]


def _stop_string(finished: api.Finished, with_stop: bool) -> str:
    return finished.stop_string if with_stop else ""
