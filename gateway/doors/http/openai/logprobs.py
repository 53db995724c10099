"""Log-probabilities in OpenAI's form."""

from collections.abc import Sequence
from typing import Any, Protocol

from glm4v.v1 import inference_pb2 as api


class Vocabulary(Protocol):
    """Tokens by their ids, as the facade has them."""

    def token_bytes(self, token_id: int) -> bytes:
        """Its bytes, or the name of a special token."""

    def is_special(self, token_id: int) -> bool:
        """Whether it is no text."""


class LogprobWriter:
    """Writes the log-probabilities of the tokens that are text: not of the newline that ends the
    header of an answer, and not of end tokens.

    Args:
        vocabulary: The tokens of the model.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def content(self, first_index: int, tokens: Sequence[api.TokenLogprobs]) -> list[Any]:
        """An entry for each token, from the token of this index on."""
        entries = []
        for index, token in enumerate(tokens, first_index):
            token_id = token.chosen.token_id
            is_header = index == 0 and self._vocabulary.token_bytes(token_id) == b"\n"
            if is_header or self._vocabulary.is_special(token_id):
                continue
            top = [self._entry(each) for each in token.top]
            entries.append({**self._entry(token.chosen), "top_logprobs": top})
        return entries

    def _entry(self, token: api.Logprob) -> dict[str, Any]:
        data = self._vocabulary.token_bytes(token.token_id)
        return {
            "token": data.decode(errors="replace"),
            "logprob": token.logprob,
            "bytes": list(data),
        }
