"""Checks of single fields. Each error names the field, its value and the allowed values."""

import re
from collections.abc import Mapping, Sequence
from struct import pack, unpack

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from glm4v.errors import InvalidRequest

MAX_STOPS = 16
MAX_STOP_BYTES = 256
MAX_STOP_TOKEN_IDS = 64
MAX_LOGIT_BIASES = 300
MAX_SALT_BYTES = 128

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def check_range(field: str, value: float, low: float, high: float, *, above: bool = False) -> None:
    """Refuse NaN and values outside `low` to `high`; `above` excludes `low` itself.

    Rounding to float32 does not move a value out of range: 0.1 in a float field is not below 0.1.
    """
    low32, high32 = unpack("ff", pack("ff", low, high))
    inside = min(low, low32) < value if above else min(low, low32) <= value
    if not (inside and value <= max(high, high32)):
        first = f"above {low:g}, up to" if above else f"{low:g} to"
        raise InvalidRequest(f"{field} is {value:g}; {first} {high:g} is allowed")


def check_request_id(request_id: str) -> None:
    """Refuse ids that are empty, too long or have other characters than the API allows."""
    if _REQUEST_ID.fullmatch(request_id) is None:
        raise InvalidRequest(
            f"request_id is {request_id[:140]!r} ({len(request_id)} characters); "
            "1 to 128 characters of A-Z a-z 0-9 . _ - are allowed"
        )


def check_stops(stops: Sequence[str]) -> None:
    """Refuse too many stop strings, and empty or long stop strings."""
    if len(stops) > MAX_STOPS:
        raise InvalidRequest(f"stop has {len(stops)} strings; at most {MAX_STOPS} are allowed")
    for number, stop in enumerate(stops):
        size = len(stop.encode())
        if not 1 <= size <= MAX_STOP_BYTES:
            raise InvalidRequest(
                f"stop[{number}] has {size} bytes; 1 to {MAX_STOP_BYTES} are allowed"
            )


def check_stop_token_ids(token_ids: Sequence[int], vocab_size: int) -> None:
    """Refuse too many stop token ids, and ids outside the vocabulary."""
    if len(token_ids) > MAX_STOP_TOKEN_IDS:
        raise InvalidRequest(
            f"stop_token_ids has {len(token_ids)} ids; at most {MAX_STOP_TOKEN_IDS} are allowed"
        )
    for number, token_id in enumerate(token_ids):
        if token_id >= vocab_size:
            raise InvalidRequest(
                f"stop_token_ids[{number}] is {token_id}; 0 to {vocab_size - 1} is allowed"
            )


def check_logit_bias(biases: Mapping[int, float], tokens: int) -> None:
    """Refuse too many biases, ids without a token, and biases out of range."""
    if len(biases) > MAX_LOGIT_BIASES:
        raise InvalidRequest(
            f"sampling.logit_bias has {len(biases)} ids; at most {MAX_LOGIT_BIASES} are allowed"
        )
    for token_id, bias in biases.items():
        if token_id >= tokens:
            raise InvalidRequest(
                f"sampling.logit_bias has id {token_id}; 0 to {tokens - 1} is allowed"
            )
        check_range(f"sampling.logit_bias[{token_id}]", bias, -100, 100)


def check_cache_salt(salt: str) -> None:
    """Refuse a salt that is longer than any digest."""
    size = len(salt.encode())
    if size > MAX_SALT_BYTES:
        raise InvalidRequest(
            f"cache_salt has {size} bytes; at most {MAX_SALT_BYTES} are allowed; use a digest"
        )


def refuse_unknown_fields(message: Message) -> None:
    """Refuse fields of newer releases anywhere in a message, instead of ignoring them."""
    fields = UnknownFieldSet(message)
    unknown = sorted({fields[index].field_number for index in range(len(fields))})
    if unknown:
        numbers = ", ".join(map(str, unknown))
        raise InvalidRequest(
            f"{message.DESCRIPTOR.full_name} has no field with number {numbers} in this release; "
            "leave it out or use a newer gateway"
        )
    for field, value in message.ListFields():
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for inner in value if isinstance(value, Sequence) else [value]:
                refuse_unknown_fields(inner)
