"""Why a schema is refused: where in it, what is there, and what to write instead."""

import json
from collections.abc import Iterable
from decimal import Decimal
from difflib import get_close_matches

from glm4v.errors import InvalidRequest

_MAX_PLACE = 120  # characters
Place = tuple[str, ...]  # names and numbers from the root of the schema


def pointer(place: Place) -> str:
    """A place as a JSON pointer (RFC 6901); empty for the root."""
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in place)


def refusal(place: Place, said: str) -> InvalidRequest:
    """One line: where, what is wrong there."""
    where = _in_json(pointer(place))[1:-1]  # in one line
    if len(where) > _MAX_PLACE:
        where = "…" + where[-_MAX_PLACE:]
    return InvalidRequest(f"response_format.json_schema: {where or 'the schema'}: {said}")


def meant(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?` where a known word is close, else nothing."""
    folded = {name.casefold(): name for name in known}
    close = get_close_matches(word.casefold(), folded, n=1, cutoff=0.75)
    return f"; did you mean {folded[close[0]]}?" if close else ""


def shown(value: object) -> str:
    """A value for a message, cut off where it is long."""
    text = str(value) if isinstance(value, Decimal) else _in_json(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _in_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
