"""How much of a caption a judge reads.

CLIP reads 77 tokens. An English word takes about one, a Chinese character two and a half, so that
of a Chinese caption some 30 characters are judged, and captions that differ after these have the
same score. Nothing here knows a tokenizer: what does not change the token ids is not read.
"""

import re
from collections.abc import Callable, Iterator

from torch import Tensor

Tokenize = Callable[[str], Tensor]  # text -> ids [context], cut off where the context ends

_MORE = " x"  # changes the ids of any text that leaves room
_FIRST_TRY = 16  # characters
_SENTENCES = re.compile(r".*?(?:[。！？!?…\n]+[”’」』）)\"']*|[.;；]+(?=\s|$)|$)", re.DOTALL)
_CLAUSES = re.compile(r".*?(?:[，、：,:]+|$)", re.DOTALL)


def judged_characters(tokenize: Tokenize, caption: str) -> int:
    """Characters from the start that settle the score; all of them unless the caption is cut."""
    if fits(tokenize, caption):
        return len(caption)
    ids = tokenize(caption)

    def is_enough(length: int) -> bool:
        return bool((tokenize(caption[:length]) == ids).all())

    high = _FIRST_TRY
    while high < len(caption) and not is_enough(high):
        high *= 2
    low, high = (high // 2 if high > _FIRST_TRY else 0), min(high, len(caption))
    while high - low > 1:  # at `high` it is enough, at `low` not
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return len(caption) if high >= len(caption.rstrip()) else high


def fits(tokenize: Tokenize, text: str) -> bool:
    """Whether a judge reads all of it and would read more."""
    return not bool((tokenize(text) == tokenize(text + _MORE)).all())


def parts(tokenize: Tokenize, caption: str) -> list[str]:
    """The caption in pieces that are read whole, as few as can be, cut at the ends of sentences.

    A sentence that is too long is cut at commas, and where there are none anywhere.
    """
    pieces: list[str] = []
    for sentence in _fitting(tokenize, caption):
        if pieces and fits(tokenize, pieces[-1] + sentence):
            pieces[-1] += sentence
        else:
            pieces.append(sentence)
    return [piece.strip() for piece in pieces if piece.strip()] or [caption]


def _fitting(tokenize: Tokenize, caption: str) -> Iterator[str]:
    for sentence in filter(None, _SENTENCES.findall(caption)):
        if fits(tokenize, sentence):
            yield sentence
            continue
        for clause in filter(None, _CLAUSES.findall(sentence)):
            rest = clause
            while rest and not fits(tokenize, rest):
                length = judged_characters(tokenize, rest) - 1  # the last one may be halved
                while length > 1 and not fits(tokenize, rest[:length]):
                    length -= 1
                length = max(1, length)
                yield rest[:length]
                rest = rest[length:]
            if rest:
                yield rest
