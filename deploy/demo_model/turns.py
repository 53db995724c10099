"""Conversations as token ids with the places of the answers, as the gateway renders them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deploy.demo_model.questions import Exchange
from gateway.tokenizer import Tokenizer

IMAGE_SLOT = 4  # [gMASK] <sop> <|user|> \n, then the picture
IGNORED = -100  # a target that does not count

_PLACEHOLDERS = ("<|begin_of_image|>", "<|endoftext|>", "<|end_of_image|>")

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Lesson:
    """A conversation: ids, what has to follow each, and whose answer that is."""

    ids: Ids  # [tokens], with the picture as 3 placeholders at IMAGE_SLOT
    targets: Ids  # [rows of text]: all tokens but the placeholders; IGNORED or an id
    owners: Ids  # [rows of text]: the exchange whose answer the target belongs to, or IGNORED


def lesson(exchanges: Sequence[Exchange], tokenizer: Tokenizer, *, has_image: bool) -> Lesson:
    """One conversation; the model learns its answers, and that a new turn follows each.

    As in the original's training an answer begins with the newline of its header, which the model
    gives itself: <|assistant|> \\n answer <|user|>.
    """
    special, newline = tokenizer.special_id, tokenizer.encode("\n")
    ids = [special("[gMASK]"), special("<sop>")]
    targets, owners = [IGNORED, IGNORED], [IGNORED, IGNORED]
    for number, exchange in enumerate(exchanges):
        header = [special("<|user|>"), *newline]
        asked = [*tokenizer.encode(exchange.question), special("<|assistant|>")]
        answer = [*newline, *tokenizer.encode(exchange.answer)]
        image = map(special, _PLACEHOLDERS) if has_image and number == 0 else ()
        ids += [*header, *image, *asked, *answer]
        before = len(header) + len(asked) - 1
        targets += [IGNORED] * before + answer + [special("<|user|>")]
        owners += [IGNORED] * before + [number] * (len(answer) + 1)
    return Lesson(*(np.array(numbers, np.int64) for numbers in (ids, targets, owners)))


def padded(rows: Sequence[Ids], filler: int, multiple: int = 8) -> Ids:
    """[rows, longest], the longest rounded up."""
    longest = -(-max(map(len, rows)) // multiple) * multiple
    return np.stack([np.pad(row, (0, longest - len(row)), constant_values=filler) for row in rows])
