"""Text to token ids and token ids to bytes, with the checkpoint's tokenizer.model."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import tiktoken

from glm4v.checkpoint.spec import ModelSpec
from glm4v.checkpoint.vocabulary import PATTERN, SPECIAL_TOKENS, read_ranks
from glm4v.errors import ContextExceeded, InvalidRequest

# The pattern backtracks over a run of white space on a stack. At about a million characters the
# matcher panics, and no `except Exception` catches that.
_MAX_SPACES = 200_000
_SPACES = re.compile(r"\s+")


class Tokenizer:
    """Byte-pair encoding with one vocabulary. Text never becomes special tokens.

    `digest` is equal for tokenizers that turn token ids into the same bytes.
    """

    def __init__(self, ranks: dict[bytes, int], spec: ModelSpec) -> None:
        # No token is registered as special: "<|user|>" in a text is ordinary text.
        self._encoding = tiktoken.Encoding(
            "glm-4v", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={}
        )
        self._bytes = sorted(ranks, key=ranks.__getitem__)
        self._special = {
            name: spec.first_special_id + number for number, name in enumerate(SPECIAL_TOKENS)
        }
        self._names = {token_id: name for name, token_id in self._special.items()}
        self._max_tokens = spec.context_tokens
        self._longest_token = max(map(len, ranks))  # bytes
        self.digest = _digest(self._bytes, self._special)

    @classmethod
    def read(cls, model_dir: Path, spec: ModelSpec) -> "Tokenizer":
        """Read tokenizer.model. Raises CheckpointError with the number of an invalid line."""
        return cls(read_ranks(model_dir / "tokenizer.model", spec.first_special_id), spec)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text that `refuse_overlong` accepted.

        Takes seconds for megabytes and releases the GIL.
        """
        return self._encoding.encode_ordinary(text)

    def refuse_overlong(self, texts: Sequence[str]) -> None:
        """Raise InvalidRequest for texts that exceed the context whatever their tokens are."""
        size = sum(len(text.encode()) for text in texts)
        at_most = self._max_tokens * self._longest_token
        if size > at_most:
            raise ContextExceeded(
                f"the prompt is too long: {size} bytes of text (a token has at most "
                f"{self._longest_token} bytes); this model's maximum context length is "
                f"{self._max_tokens} tokens; shorten the text"
            )
        for text in texts:
            run = _longest_run_of_spaces(text)
            if run > _MAX_SPACES:
                raise InvalidRequest(
                    f"a text has {run} consecutive white-space characters; at most {_MAX_SPACES} "
                    "are allowed"
                )

    def special_id(self, name: str) -> int:
        """The id of a special token, for example "<|user|>"."""
        return self._special[name]

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token adds to an answer; none for special tokens and padding."""
        return self._bytes[token_id] if token_id < len(self._bytes) else b""

    def spelling(self, token_id: int) -> bytes:
        """The bytes of a token alone; the name of a special token; none for padding."""
        name = self._names.get(token_id)
        return name.encode() if name else self.token_bytes(token_id)

    def is_special(self, token_id: int) -> bool:
        """Whether a token is no text."""
        return token_id >= len(self._bytes)


def _digest(tokens: Sequence[bytes], special: Mapping[str, int]) -> bytes:
    digest = hashlib.sha256(repr(sorted(special.items())).encode())
    for token in tokens:
        digest.update(len(token).to_bytes(4, "little") + token)
    return digest.digest()


def _longest_run_of_spaces(text: str) -> int:
    if len(text) <= _MAX_SPACES:
        return 0  # too short for a long run
    return max((found.end() - found.start() for found in _SPACES.finditer(text)), default=0)
