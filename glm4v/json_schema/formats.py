"""Formats of strings: those the grammar library holds to, and regular expressions for the rest.

The library knows dates without leap years, seconds of 60 at any minute, and host names of any
length (llguidance 1.9.1); those four are written out here, from RFC 3339 and RFC 1123.
"""

from typing import NamedTuple


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
HELD = frozenset({"duration", "email", "ipv4", "ipv6", "uri", "uuid"})
