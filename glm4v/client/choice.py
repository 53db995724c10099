"""One answer of a generation, as far as it was read."""

from glm4v.errors import RequestFailed
from glm4v.v1 import inference_pb2 as pb


class Choice:
    """Tokens and text in order, whatever happens to the connection.

    Attributes:
        token_offset: Tokens before the first one read here.
        token_ids: Tokens read so far.
        logprobs: One for each of them, when they were asked for.
        finished: That event, once it was read.
    """

    def __init__(self, token_offset: int = 0) -> None:
        self.token_offset = token_offset
        self.token_ids: list[int] = []
        self.logprobs: list[pb.TokenLogprobs] = []
        self.finished: pb.Finished | None = None
        self._texts: list[str] = []
        self._stages = 0  # progress events since the last delta,
        self._known_stages = 0  # and how many of them come again after attaching

    @property
    def text(self) -> str:
        """What is final of the text, from `token_offset` on."""
        return "".join(self._texts)

    @property
    def num_received(self) -> int:
        """Tokens that need not be sent."""
        return self.token_offset + len(self.token_ids)

    def reconnect(self) -> None:
        """What was told since the last token comes again."""
        self._known_stages = self._stages

    def take(self, event: pb.GenerationEvent) -> bool:
        """Note an event; whether it is news. Raises RequestFailed for a gap between tokens."""
        kind = event.WhichOneof("event")
        if kind == "progress":
            if event.progress.unchanged:  # keeps a quiet stream open, and says nothing else
                return False
            if self._known_stages:
                self._known_stages -= 1
                return False
            self._stages += 1
        elif kind == "delta":
            self._take_delta(event.delta)
        elif kind == "finished":
            if self.finished is not None:
                return False
            self.finished = event.finished
            self._texts.append(event.finished.text)
        return True

    def _take_delta(self, delta: pb.Delta) -> None:
        if delta.first_index != self.num_received:
            raise RequestFailed(
                f"token {delta.first_index} came where {self.num_received} comes next"
            )
        self.token_ids.extend(delta.token_ids)
        self.logprobs.extend(delta.logprobs)
        self._texts.append(delta.text)
        self._stages = self._known_stages = 0
