"""Token ids of an answer to text, as they come, up to the first stop string."""

import codecs
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateway.text.stop_strings import StopStrings


class Stopped(NamedTuple):
    """The answer met a stop string."""

    stop_string: str
    tokens_used: int  # tokens up to and with the one that completed it


class Detokenizer:
    """Releases text as soon as it is final.

    Held back are the bytes of an incomplete character and what may be the beginning of a stop
    string. What is released after token i depends on tokens 0 … i alone, never on how they were
    grouped: whoever reads the answer again, from any token on, sees the same text.

    `header_id` is the token that ends the header of a turn: where the answer begins with it, it is
    the template's and adds no text.
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
        """The text these tokens make final; tokens after a stop string are ignored."""
        released = []
        for token_id in token_ids:
            if self.stopped:
                break
            self._tokens += 1
            if self._tokens == 1 and token_id == self._header_id:
                continue
            released.append(self._release(self._decoder.decode(self._token_bytes(token_id))))
        return "".join(released)

    def finish(self) -> str:
        """What was held back, when the answer ended without a stop string.

        An incomplete character becomes U+FFFD; that completes no stop string.
        """
        if self.stopped:
            return ""
        text = self._pending + self._decoder.decode(b"", final=True)
        self._pending = ""
        return text

    def _release(self, decoded: str) -> str:
        found = self._stops.feed(decoded)
        text = self._pending + decoded
        if found:
            stop, end = found
            self.stopped = Stopped(stop, self._tokens)
            return text[: len(self._pending) + end - len(stop)]
        final = len(text) - self._stops.held
        self._pending = text[final:]
        return text[:final]
