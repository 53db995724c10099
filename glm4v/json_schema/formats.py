"""Formats: those the grammar library holds to, and regular expressions for the rest.

The library knows dates without leap years, seconds of 60 at any minute, and host names of any
length (llguidance 1.9.1); those four are written out here, from RFC 3339 and RFC 1123.
"""

from typing import Any, NamedTuple

from glm4v.errors import InvalidRequest
from glm4v.json_schema.numbers import MOST_EXACT
from glm4v.json_schema.refusal import Place, meant, refusal, shown


class Pattern(NamedTuple):
    """What stands for a format."""

    regex: str  # for the whole string
    max_length: int | None = None


_YEAR = "(?:000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_LEAP_YEAR = (
    "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"  # not 0000
)
_DATE = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    f"|{_LEAP_YEAR}-02-29)"
)
# A second of 60 is right only where one was inserted: none is written.
_TIME = (
    "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]+)?"
    "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
# Two hyphens as third and fourth character announce an encoding (RFC 5891): none is written.
_LABEL = (
    "[A-Za-z0-9](?:[A-Za-z0-9-]{0,2}[A-Za-z0-9]"
    "|[A-Za-z0-9-](?:[A-Za-z0-9-][A-Za-z0-9]|[A-Za-z0-9]-)[A-Za-z0-9-]{0,58}[A-Za-z0-9])?"
)

REWRITTEN = {
    "date": Pattern(_DATE),
    "time": Pattern(_TIME),
    "date-time": Pattern(f"{_DATE}T{_TIME}"),
    "hostname": Pattern(f"{_LABEL}(?:\\.{_LABEL})*", 253),
}
# Of numbers, as OpenAPI's registry and schemars name them: narrower where a double is.
_WHOLE = {
    **{f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32)},
    **{f"uint{bits}": (0, 2**bits - 1) for bits in (8, 16, 32)},
    **dict.fromkeys(("int", "int64"), (-MOST_EXACT, MOST_EXACT)),
    **dict.fromkeys(("uint", "uint64"), (0, MOST_EXACT)),
}
_REAL = dict.fromkeys(("float", "double"), (-MOST_EXACT, MOST_EXACT))
_TYPES = {**dict.fromkeys(_WHOLE, "integer"), **dict.fromkeys(_REAL, "number")}
_RANGES = {**_WHOLE, **_REAL}

_AS_THEY_ARE = frozenset({"duration", "email", "ipv4", "ipv6", "uri", "uuid"})
_OF_STRINGS = _AS_THEY_ARE | REWRITTEN.keys()


def write(held: dict[str, Any], place: Place) -> None:
    """Put what stands for a format beside what a schema has already; raises InvalidRequest."""
    name = held.get("format")
    if name is None or name in _AS_THEY_ARE:
        return
    if name in REWRITTEN:
        _add_pattern(held, REWRITTEN[name])
    elif name in _RANGES and _is_number(held.get("type"), _TYPES[name]):
        _narrow(held, *_RANGES[name])
    else:
        raise _not_held(name, place)
    del held["format"]


def _is_number(types: Any, wanted: str) -> bool:
    names = types if isinstance(types, list) else [types]
    return wanted in names and set(names) <= {wanted, "null"}


def _not_held(name: str, place: Place) -> InvalidRequest:
    at = (*place, "format")
    if name in _TYPES:
        wanted = _TYPES[name]
        return refusal(at, f"{shown(name)} is held to beside the type {wanted} only")
    return refusal(
        at,
        f"{shown(name)} is not held to{meant(name, _OF_STRINGS)}; "
        f"remove it, or write one of {', '.join(sorted(_OF_STRINGS))}",
    )


def _narrow(held: dict[str, Any], lowest: int, highest: int) -> None:
    held["minimum"] = max(held.get("minimum", lowest), lowest)
    held["maximum"] = min(held.get("maximum", highest), highest)


def _add_pattern(held: dict[str, Any], written: Pattern) -> None:
    regex = f"^(?:{written.regex})$"
    if "pattern" in held:
        held.setdefault("allOf", []).append({"pattern": regex})
    else:
        held["pattern"] = regex
    if written.max_length is not None:
        held["maxLength"] = min(held.get("maxLength", written.max_length), written.max_length)
