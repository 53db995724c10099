"""Stop strings of the formats of MindIE, TGI and vLLM: one text, or a list of texts."""

from gateway.doors.http.fields import Fields
from glm4v.errors import InvalidRequest

_MAX_LENGTH = 1024  # characters of one
_MAX_COUNT = 1024
_MAX_TOTAL = 32768  # characters of all


def read_stops(fields: Fields, *, longest: int = _MAX_LENGTH) -> list[str]:
    """The stop strings; `longest` is for one that is no list. Raises InvalidRequest.

    The gateway's own limits are stricter, and name the string that exceeds them.
    """
    value = fields.value("stop")
    if value is None:
        return []
    if isinstance(value, str):
        if not 1 <= len(value) <= longest:
            raise InvalidRequest(
                f"Parameter stop must have 1 to {longest} characters, got {len(value)}."
            )
        return [value]
    if not isinstance(value, list):
        raise InvalidRequest("stop must be string or list[string] type.")
    if not all(isinstance(stop, str) and 1 <= len(stop) <= _MAX_LENGTH for stop in value):
        raise InvalidRequest(
            f"Parameter stop must be a list of strings of 1 to {_MAX_LENGTH} characters."
        )
    if len(value) > _MAX_COUNT or sum(map(len, value)) > _MAX_TOTAL:
        raise InvalidRequest(
            f"Parameter stop must have at most {_MAX_COUNT} strings and {_MAX_TOTAL} characters."
        )
    return value
