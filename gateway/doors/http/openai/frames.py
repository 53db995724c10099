"""A chat completion in chunks."""

from collections.abc import Iterator

from gateway.doors.http.json_text import json_bytes, json_string
from gateway.doors.http.openai.completion import REASONS, Completion, usage_object
from glm4v.v1 import inference_pb2 as api


class ChunkEncoder:
    """The chunks of a stream (see `stream.Encoder`).

    Args:
        completion: What they have in common.
        with_usage: Whether a last chunk has the token counts.
    """

    def __init__(self, completion: Completion, *, with_usage: bool = False) -> None:
        self._completion = completion
        self._with_usage = with_usage
        self._head = completion.chunk_head()
        self._before = [  # of the text of a choice
            self._head + b'{"index":%d,"delta":{"content":' % index for index in range(completion.n)
        ]
        self._usages: dict[int, api.Usage] = {}

    def begin(self, accepted: api.Accepted) -> Iterator[bytes]:
        """The role, in the first chunk of each choice alone."""
        for index in range(accepted.n):
            delta = b'{"index":%d,"delta":{"role":"assistant","content":""}' % index
            yield self._head + delta + b',"finish_reason":null}]}'

    def delta(self, choice: int, delta: api.Delta) -> Iterator[bytes]:
        """Text; no chunk without any, unless it has log-probabilities."""
        logprobs = self._logprobs(delta)
        if delta.text or logprobs:
            text = json_string(delta.text).encode()
            yield self._before[choice] + text + b"}" + logprobs + b',"finish_reason":null}]}'

    def finished(self, choice: int, finished: api.Finished) -> Iterator[bytes]:
        """The rest of the text, if there is any, and the reason."""
        self._usages[choice] = finished.usage
        text = self._completion.last_text(finished)
        delta = b'{"content":%s}' % json_string(text).encode() if text else b"{}"
        reason = REASONS[finished.reason].encode()
        yield self._head + b'{"index":%d,"delta":%s,"finish_reason":"%s"}]}' % (
            choice,
            delta,
            reason,
        )

    def complete(self) -> Iterator[bytes]:
        """The token counts, in a chunk without choices."""
        if self._with_usage and self._usages:
            usages = [self._usages[choice] for choice in sorted(self._usages)]
            yield self._head + b'],"usage":' + json_bytes(usage_object(usages)) + b"}"

    def end(self) -> Iterator[bytes]:
        """The sentinel of OpenAI's streams."""
        yield b"[DONE]"

    def _logprobs(self, delta: api.Delta) -> bytes:
        writer = self._completion.logprobs
        if writer is None:
            return b""
        entries = writer.content(delta.first_index, delta.logprobs)
        return b',"logprobs":' + json_bytes({"content": entries}) if entries else b""
