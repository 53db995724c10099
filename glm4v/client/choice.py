"""One choice of a generation."""

from glm4v.errors import RequestFailed
from glm4v.v1 import inference_pb2 as pb


class Choice:
    """The tokens and the text received so far, each once across reconnections.

    Attributes:
        token_offset: Number of tokens before the first one in `token_ids`.
        token_ids: Tokens received.
        logprobs: One for each token, if requested.
        finished: The event, once received.
    """

    def __init__(self, token_offset: int = 0) -> None:
        self.token_offset = token_offset
        self.token_ids: list[int] = []
        self.logprobs: list[pb.TokenLogprobs] = []
        self.finished: pb.Finished | None = None
        self._texts: list[str] = []
        self._stages = 0  # progress events since the last delta
        self._repeated_stages = 0  # how many of them are still to be repeated after a reconnection

    @property
    def text(self) -> str:
        """The final part of the text, from `token_offset` on."""
        return "".join(self._texts)

    @property
    def num_received(self) -> int:
        """Tokens that a new stream can skip."""
        return self.token_offset + len(self.token_ids)

    def reconnect(self) -> None:
        """Expect the progress events since the last token again."""
        self._repeated_stages = self._stages

    def record(self, event: pb.GenerationEvent) -> bool:
        """Record an event; true if it is new. Raises RequestFailed if tokens are missing."""
        kind = event.WhichOneof("event")
        if kind == "progress":
            if event.progress.unchanged:  # a keepalive
                return False
            if self._repeated_stages:
                self._repeated_stages -= 1
                return False
            self._stages += 1
        elif kind == "delta":
            self._record_delta(event.delta)
        elif kind == "finished":
            if self.finished is not None:
                return False
            self.finished = event.finished
            self._texts.append(event.finished.text)
        return True

    def _record_delta(self, delta: pb.Delta) -> None:
        if delta.first_index != self.num_received:
            raise RequestFailed(
                f"protocol error: expected token index {self.num_received}, got {delta.first_index}"
            )
        self.token_ids.extend(delta.token_ids)
        self.logprobs.extend(delta.logprobs)
        self._texts.append(delta.text)
        self._stages = self._repeated_stages = 0
