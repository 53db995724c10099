"""Single tokens as TGI writes them."""

from struct import pack
from typing import Any, Protocol

from glm4v.v1 import inference_pb2 as api


class Vocabulary(Protocol):
    """What the facade knows of tokens."""

    def token_bytes(self, token_id: int) -> bytes:
        """A token alone."""

    def is_special(self, token_id: int) -> bool:
        """Whether it is no text."""


class TokenWriter:
    """Writes tokens. A part of a character becomes U+FFFD; texts of answers have it whole."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def text(self, token_id: int) -> str:
        """A token alone, or the name of a special token."""
        return self._vocabulary.token_bytes(token_id).decode(errors="replace")

    def token(
        self, token_id: int, logprob: float | None, text: str | None = None
    ) -> dict[str, Any]:
        """A token; in a stream with the `text` that it adds to the answer.

        A special token adds none there, because huggingface_hub joins the texts of all tokens. Text
        that was withheld until such a token makes it an ordinary one, so that nobody drops it.
        """
        is_special = self._vocabulary.is_special(token_id) and not text
        if text is None:
            text = self.text(token_id)
        return {"id": token_id, "text": text, "logprob": shortest(logprob), "special": is_special}

    def alternatives(self, logprobs: api.TokenLogprobs) -> list[dict[str, Any]]:
        """The most probable tokens, best first."""
        return [self.token(each.token_id, each.logprob) for each in logprobs.top]


def shortest(value: float | None) -> float | None:
    """A number of 32 bits with as few digits as tell it from its neighbours, as TGI writes it."""
    if value is None:
        return None
    rounded = (float(f"{value:.{digits}g}") for digits in range(6, 9))
    return next((each for each in rounded if pack("f", each) == pack("f", value)), value)
