"""Token ids of an answer to text, incrementally, up to the first stop string."""

import codecs
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateway.text.stop_strings import StopStrings


class Stopped(NamedTuple):
    """The answer reached a stop string."""

    stop_string: str
    tokens_used: int  # tokens up to and including the one that completed it


class Detokenizer:
    """Returns text as soon as it is final.

    It withholds the bytes of an incomplete character, and text that may be the start of a stop
    string. The text returned after token i depends on tokens 0 … i only, not on how they were
    grouped, so every reader of an answer, from any token on, gets the same text.

    `header_id` is the token that ends the header of a turn. As the first token of an answer it
    belongs to the chat template and adds no text.
    """

    def __init__(
        self,
        token_bytes: Callable[[int], bytes],
        stops: Sequence[str] = (),
        *,
        header_id: int | None = None,
    ) -> None:
        self._token_bytes = token_bytes
        self._header_id = header_id
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = StopStrings(stops)
        self._pending = ""
        self._tokens = 0
        self.stopped: Stopped | None = None

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that these tokens make final. Tokens after a stop string are ignored."""
        final = []
        for token_id in token_ids:
            if self.stopped:
                break
            self._tokens += 1
            if self._tokens == 1 and token_id == self._header_id:
                continue
            final.append(self._finalize(self._decoder.decode(self._token_bytes(token_id))))
        return "".join(final)

    def finish(self) -> str:
        """The withheld text of an answer that ended without a stop string.

        An incomplete character becomes U+FFFD, which completes no stop string.
        """
        if self.stopped:
            return ""
        text = self._pending + self._decoder.decode(b"", final=True)
        self._pending = ""
        return text

    def _finalize(self, decoded: str) -> str:
        found = self._stops.feed(decoded)
        text = self._pending + decoded
        if found:
            stop, end = found
            self.stopped = Stopped(stop, self._tokens)
            return text[: len(self._pending) + end - len(stop)]
        end = len(text) - self._stops.partial_match_length
        self._pending = text[end:]
        return text[:end]
