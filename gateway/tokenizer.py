"""Text to token ids and token ids to bytes, by the checkpoint's tokenizer.model.

Source of the pattern, the special tokens and their order: tokenization_chatglm.py and
tokenizer_config.json of THUDM/glm-4v-9b.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from pathlib import Path

import tiktoken

from glm4v.errors import CheckpointError, InvalidRequest
from glm4v.model_spec import ModelSpec

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
)

_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# The pattern tries every end of a run of white space, on a stack; at about a million characters
# the matcher gives up with a panic that no `except Exception` stops.
_MAX_SPACES = 200_000
_SPACES = re.compile(r"\s+")


class Tokenizer:
    """Byte-pair encoding of one vocabulary; special tokens are never parsed out of text."""

    def __init__(self, ranks: dict[bytes, int], spec: ModelSpec) -> None:
        # Nothing is registered as special: "<|user|>" in a text is ordinary text.
        self._encoding = tiktoken.Encoding(
            "glm-4v", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens={}
        )
        self._bytes = sorted(ranks, key=ranks.__getitem__)
        self._special = {
            name: spec.first_special_id + number for number, name in enumerate(SPECIAL_TOKENS)
        }
        self._max_tokens = spec.context_tokens
        self._longest_token = max(map(len, ranks))  # bytes

    @classmethod
    def read(cls, model_dir: Path, spec: ModelSpec) -> "Tokenizer":
        """Read tokenizer.model; raises CheckpointError naming the line that does not fit."""
        return cls(_read_ranks(model_dir / "tokenizer.model", spec.first_special_id), spec)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text that `refuse_overlong` let pass.

        Takes seconds for megabytes; the GIL is free meanwhile.
        """
        return self._encoding.encode_ordinary(text)

    def refuse_overlong(self, texts: Sequence[str]) -> None:
        """Raise InvalidRequest for what costs seconds of encoding only to be refused after it."""
        size = sum(len(text.encode()) for text in texts)
        at_most = self._max_tokens * self._longest_token
        if size > at_most:
            raise InvalidRequest(
                f"{size} bytes of text are more than the {self._max_tokens} tokens of the context "
                f"(a token has at most {self._longest_token} bytes); shorten the text"
            )
        for text in texts:
            run = _longest_run_of_spaces(text)
            if run > _MAX_SPACES:
                raise InvalidRequest(
                    f"a text has {run} white-space characters in a row, at most {_MAX_SPACES} "
                    "are taken; shorten them"
                )

    def special_id(self, name: str) -> int:
        """Id of a special token, by its spelling."""
        return self._special[name]

    def token_bytes(self, token_id: int) -> bytes:
        """What a token adds to an answer: nothing for special tokens and padding."""
        return self._bytes[token_id] if token_id < len(self._bytes) else b""


def _longest_run_of_spaces(text: str) -> int:
    if len(text) <= _MAX_SPACES:
        return 0  # shorter than what is looked for
    return max((found.end() - found.start() for found in _SPACES.finditer(text)), default=0)


def _read_ranks(path: Path, count: int) -> dict[bytes, int]:
    """Lines of base64(token), a space, the token's rank; every rank below `count` once."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise CheckpointError(f"{path}: not readable: {error.strerror}") from None
    ranks: dict[bytes, int] = {}
    seen = bytearray(count)
    for number, line in enumerate(lines, 1):
        try:
            encoded, rank_digits = line.split(b" ")
            token, rank = base64.b64decode(encoded, validate=True), int(rank_digits)
        except (ValueError, binascii.Error):
            raise CheckpointError(
                f"{path}: line {number}: {line[:60]!r} is not a base64 token and its rank"
            ) from None
        if not 0 <= rank < count or seen[rank]:
            raise CheckpointError(
                f"{path}: line {number}: rank {rank} is taken already, or not below the {count} "
                "that config.json asks for"
            )
        if not token or token in ranks:
            raise CheckpointError(f"{path}: line {number}: the token is empty or stands twice")
        ranks[token] = rank
        seen[rank] = 1
    if len(ranks) != count:
        raise CheckpointError(
            f"{path}: {len(ranks)} tokens; config.json asks for {count} (pad_token_id)"
        )
    _check_bytes(path, ranks)
    return ranks


def _check_bytes(path: Path, ranks: dict[bytes, int]) -> None:
    """Any text can be encoded only when each byte is a token of its own."""
    for value in range(256):
        if bytes([value]) not in ranks:
            raise CheckpointError(f"{path}: no token for the single byte {value}")
