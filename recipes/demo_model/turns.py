"""Conversations as token ids with the places of the answers, as the gateway renders them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gateway.text.tokenizer import Tokenizer
from recipes.demo_model.exchange import FOLLOW_UP, Exchange
from recipes.demo_model.labels import NUMBERS
from recipes.demo_model.palette import COLOURS

IMAGE_SLOT = 4  # [gMASK] <sop> <|user|> \n, then the picture
IGNORED = -100  # a target that does not count
EVERYONE = 0  # the topic of what all topics see
ANYWHERE = -1  # in the places of an exchange that is about nothing in particular

_PLACEHOLDERS = ("<|begin_of_image|>", "<|endoftext|>", "<|end_of_image|>")

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Lesson:
    """A conversation: ids, what has to follow each, and whose answer that is."""

    ids: Ids  # [tokens], with the picture as 3 placeholders at IMAGE_SLOT
    positions: Ids  # [tokens]
    topics: Ids  # [tokens]: a token sees those before it that are of EVERYONE or of its own topic
    targets: Ids  # [rows of text]: all tokens but the placeholders; IGNORED or an id
    owners: Ids  # [rows of text]: the exchange whose answer the target belongs to, or IGNORED


def lesson(
    exchanges: Sequence[Exchange], tokenizer: Tokenizer, *, has_image: bool, apart: bool = False
) -> Lesson:
    """One conversation; the model learns its answers, and that a new turn follows each.

    As in the original's training an answer begins with the newline of its header, which the model
    gives itself: <|assistant|> \\n answer <|user|>.

    `apart`: each topic, an exchange and its follow-ups, is a conversation of its own about the same
    picture, which is read once for all of them. Else what was answered first tells much of what
    is asked next, and a model learns to read its own answers, not the picture.
    """
    special, newline = tokenizer.special_id, tokenizer.encode("\n")
    header = [special("<|user|>"), *newline]
    image = map(special, _PLACEHOLDERS) if has_image else ()
    ids = [special("[gMASK]"), special("<sop>"), *header, *image]
    shared = len(ids)
    positions, topics = list(range(shared)), [EVERYONE] * shared
    targets, owners = [IGNORED] * IMAGE_SLOT, [IGNORED] * IMAGE_SLOT
    topic = EVERYONE
    for number, exchange in enumerate(exchanges):
        asked = [*tokenizer.encode(exchange.question), special("<|assistant|>")]
        answer = [*newline, *tokenizer.encode(exchange.answer)]
        position = positions[-1] + 1
        if apart and exchange.skill != FOLLOW_UP:
            topic += 1
            position = shared
        elif number:
            asked = [*header, *asked]
        length = len(asked) + len(answer)
        ids += asked + answer
        positions += range(position, position + length)
        topics += [topic] * length
        targets += [IGNORED] * (len(asked) - 1) + answer + [special("<|user|>")]
        owners += [IGNORED] * (len(asked) - 1) + [number] * (len(answer) + 1)
    columns = (ids, positions, topics, targets, owners)
    return Lesson(*(np.array(numbers, np.int64) for numbers in columns))


def places(exchanges: Sequence[Exchange], grid: int) -> Ids:
    """How many things each question asks about are in each picture row: [exchanges, grid * grid].

    ANYWHERE in all of them where it asks about nothing in particular.
    """
    found = np.zeros((len(exchanges), grid * grid), np.int64)
    for number, exchange in enumerate(exchanges):
        if exchange.about is None:
            found[number] = ANYWHERE
        for point in exchange.about or ():
            x, y = (min(max(int(part * grid), 0), grid - 1) for part in point)
            found[number, y * grid + x] += 1
    return found


def named(exchanges: Sequence[Exchange]) -> Ids:
    """Kind and colour of what each question names: [exchanges, 2].

    The number of KINDS or IGNORED; that of COLOURS, or the one behind them where none is said, or
    IGNORED where nothing is named.
    """
    found = np.full((len(exchanges), 2), IGNORED, np.int64)
    for number, exchange in enumerate(exchanges):
        noun = exchange.named
        if noun and (kind := NUMBERS.get(noun.english)):
            colour = COLOURS.index(noun.colour) if noun.colour else len(COLOURS)
            found[number] = kind, colour
    return found


def padded(rows: Sequence[Ids], filler: int, multiple: int = 8) -> Ids:
    """[rows, longest], the longest rounded up."""
    longest = -(-max(map(len, rows)) // multiple) * multiple
    return np.stack([np.pad(row, (0, longest - len(row)), constant_values=filler) for row in rows])
