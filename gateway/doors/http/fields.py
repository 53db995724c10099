"""Typed fields of a JSON object, for the formats of MindIE, TGI and vLLM.

`null` is as good as absent, and an integer is a number. Messages are those of MindIE, which users
of all three know.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glm4v.errors import InvalidRequest

MAX_INT32 = 2**31 - 1
MAX_INT64 = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Interval:
    """The allowed values of a number."""

    low: float
    high: float
    above: bool = False  # `low` itself is not allowed
    below: bool = False  # `high` itself is not allowed

    def __contains__(self, value: float) -> bool:
        over = self.low < value if self.above else self.low <= value
        return over and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        return f"{'(' if self.above else '['}{self.low},{self.high}{')' if self.below else ']'}"


POSITIVE = Interval(0, MAX_INT32, above=True)


class Fields:
    """The fields of an object; each getter raises InvalidRequest that names its field."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None

    def value(self, key: str) -> Any:
        """Whatever it is; None if it is absent."""
        return self._values.get(key)

    def boolean(self, key: str) -> bool | None:
        """True or false."""
        value = self._values.get(key)
        if value is not None and not isinstance(value, bool):
            raise wrong_type(key, "boolean")
        return value

    def string(self, key: str) -> str | None:
        """A text."""
        value = self._values.get(key)
        if value is not None and not isinstance(value, str):
            raise wrong_type(key, "string")
        return value

    def object(self, key: str) -> "Fields":
        """The fields of an object; none if it is absent."""
        value = self._values.get(key)
        if value is None:
            return Fields({})
        if not isinstance(value, dict):
            raise wrong_type(key, "object")
        return Fields(value)

    def array(self, key: str) -> list[Any] | None:
        """A list of anything."""
        value = self._values.get(key)
        if value is not None and not isinstance(value, list):
            raise wrong_type(key, "array")
        return value

    def number(self, key: str, allowed: Interval) -> float | None:
        """A number in an interval."""
        value = self._values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong_type(key, "float")
        return float(_within(key, value, allowed))

    def integer(self, key: str, allowed: Interval) -> int | None:
        """An integer in an interval. One that is never negative is called unsigned."""
        value = self._values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong_type(key, "unsigned" if allowed.low >= 0 else "integer")
        return int(_within(key, value, allowed))


def wrong_type(key: str, wanted: str) -> InvalidRequest:
    """The error for a value of another type."""
    return InvalidRequest(f"{key} must be {wanted} type.")


def as_json(value: Any) -> str:
    """A value for a message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:80] + "…"


def _within(key: str, value: float, allowed: Interval) -> float:
    if value not in allowed:
        raise InvalidRequest(f"Parameter {key} must be in {allowed}, got {as_json(value)}.")
    return value
