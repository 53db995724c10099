"""The text of a schema as values: strictly JSON, numbers as they were written."""

import json
from decimal import Decimal, InvalidOperation
from typing import Any

from glm4v.errors import InvalidRequest

_FIELD = "response_format.json_schema"
_WRAPPER = {"name", "description", "strict", "schema"}  # of OpenAI's API


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
    """What is inside `{"type": "json_schema", "json_schema": {"name": …, "schema": …}}`."""
    inner = document.get("json_schema")
    if document.get("type") == "json_schema" and isinstance(inner, dict) and len(document) == 2:
        document = inner
    schema = document.get("schema")
    if isinstance(schema, dict) and document.keys() <= _WRAPPER:
        return schema
    return document


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
