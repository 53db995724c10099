"""The tokens of a checkpoint: those of its tokenizer.model, and the special ones behind them.

Source of the special tokens and their order: tokenizer_config.json of THUDM/glm-4v-9b.
"""

import base64
import binascii
from pathlib import Path

from glm4v.checkpoint.files import refuse_lfs_pointer
from glm4v.errors import CheckpointError

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

# Where text is split before it becomes tokens; no token crosses such a place.
# Source: tokenization_chatglm.py of THUDM/glm-4v-9b.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def read_ranks(path: Path, count: int) -> dict[bytes, int]:
    """Lines of base64(token), a space, the token's rank; every rank below `count` once.

    Raises CheckpointError naming the line that does not fit.
    """
    lines = _read_lines(path)
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


def _read_lines(path: Path) -> list[bytes]:
    """Lines end as they do on any system; a checkout may have turned them."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        beside = (path.parent / "tokenizer.json").exists()
        raise CheckpointError(
            f"{path}: no such file; copy it from THUDM/glm-4v-9b, whose vocabulary does not change "
            f"with training{' (tokenizer.json does not take its place)' if beside else ''}"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path}: not readable: {error.strerror}") from None
    refuse_lfs_pointer(path, content)
    return content.splitlines()


def _check_bytes(path: Path, ranks: dict[bytes, int]) -> None:
    """Any text can be encoded only when each byte is a token of its own."""
    for value in range(256):
        if bytes([value]) not in ranks:
            raise CheckpointError(f"{path}: no token for the single byte {value}")
