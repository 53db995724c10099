"""The text of a schema as values: strictly JSON, numbers as they were written."""

import json
from decimal import Decimal, InvalidOperation
from typing import Any

from glm4v.errors import InvalidRequest

_FIELD = "response_format.json_schema"
# Of OpenAI's APIs: around the schema, and around that.
_WRAPPER = {"type", "name", "description", "strict", "schema"}
_OUTER = ("json_schema", "format")


def read_schema(text: str) -> dict[str, Any]:
    """The schema in `text`, out of OpenAI's wrapper if it is in one; every number is a Decimal.

    Raises InvalidRequest for what is no JSON object, names a key twice, or nests too deeply.
    """
    try:
        document = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_number,
            parse_float=_number,
            parse_constant=_no_constant,
        )
    except RecursionError:
        raise InvalidRequest(
            f"{_FIELD} is nested too deeply; flatten it with $defs and $ref"
        ) from None
    except ValueError as error:
        raise InvalidRequest(f"{_FIELD} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidRequest(f"{_FIELD} is {text[:40]!r}; a JSON object is needed")
    return _unwrap(document)


def _unwrap(document: dict[str, Any]) -> dict[str, Any]:
    """The schema in OpenAI's wrappers: `response_format` of chats, `text.format` of responses.

    Inside is `{"name": …, "strict": …, "schema": …}`, with `"type": "json_schema"` in or around it.
    """
    for outer in _OUTER:
        inner = document.get(outer)
        if isinstance(inner, dict) and document.keys() <= {"type", "strict", outer}:
            document = inner
    schema = document.get("schema")
    is_wrapper = document.keys() <= _WRAPPER and document.get("type") in (None, "json_schema")
    return schema if isinstance(schema, dict) and is_wrapper else document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"an object has the key {key[:60]!r} twice")
        found[key] = value
    return found


def _number(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError(f"the exponent of {text[:40]} is too large") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
