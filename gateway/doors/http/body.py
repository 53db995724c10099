"""The body of a request: JSON, read within the limits of its call, into the model of a format."""

import re
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request

from gateway.doors.http.calls import Call
from gateway.doors.http.errors import InvalidField
from glm4v.errors import InvalidRequest

_Body = TypeVar("_Body", bound=BaseModel)

_BROWSERS_SEND = ("origin", "sec-fetch-site")  # with every POST, whatever a page asks for
_SHOULD = "input should be "
_UNION_MEMBER = re.compile(r"str|(?:list|dict)\[.*\]")


class Body(BaseModel):
    """Base of the bodies of all formats: an integer may stand for a float, nothing else differs in
    type, and unknown fields are kept in `model_extra`.
    """

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


async def read_body(request: Request, kind: type[_Body]) -> _Body:
    """The body of a request, which is not kept. Raises InvalidRequest and as `read_bytes`."""
    refuse_forms(request)
    return parse_body(await read_bytes(request), kind)


def parse_body(content: bytes, kind: type[_Body]) -> _Body:
    """A body from its JSON. Raises InvalidRequest."""
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise _invalid_field(error) from None


async def read_bytes(request: Request) -> bytes:
    """The bytes of a body. Raises TooLarge, Overloaded, InvalidRequest and DeadlinePassed."""
    call: Call = request.state.call
    length = request.headers.get("content-length", "")
    return await call.read(request.receive, int(length) if length.isdecimal() else None)


def refuse_forms(request: Request) -> None:
    """Refuse what any web page can make a browser send unasked: forms, plain text, untyped bodies.

    A browser says that it is one. Other clients send such types by default (curl that of a form,
    tritonclient none), and MindIE's guide has curl do so.
    """
    if not any(header in request.headers for header in _BROWSERS_SEND):
        return
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        seen = kind or "missing"
        raise InvalidRequest(f"Content-Type is {seen}; send Content-Type: application/json")


def described(kind: type[BaseModel]) -> dict[str, Any]:
    """What OpenAPI says of a body, for `openapi_extra` of a route that calls `read_body`."""
    schema = kind.model_json_schema()
    inlined = _inline(schema, schema.pop("$defs", {}))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inlined}}}}


def _inline(value: Any, definitions: dict[str, Any]) -> Any:
    """A schema with its definitions in the place of references to them; none is recursive."""
    if isinstance(value, list):
        return [_inline(each, definitions) for each in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        return _inline(definitions[value["$ref"].rpartition("/")[2]], definitions)
    return {key: _inline(each, definitions) for key, each in value.items()}


def _invalid_field(error: ValidationError) -> InvalidField:
    """The first thing that is wrong with a body, where in it, and what may be there instead."""
    errors = error.errors(include_url=False, include_context=False)
    first = errors[0]
    if first["type"] == "json_invalid":
        message = _uncapitalized(first["msg"]).removeprefix("invalid JSON: ")
        return InvalidField("", f"the body is not JSON: {message}")
    places = [_path(each["loc"]) for each in errors]
    # Of a union each member has an error; the one that fits best goes deepest.
    field = max((place for place in places if place.startswith(places[0])), key=len)
    messages = [each["msg"] for each, place in zip(errors, places, strict=True) if place == field]
    allowed = [
        _uncapitalized(message).removeprefix(_SHOULD)
        for message in messages
        if message.startswith(_SHOULD.capitalize())
    ]
    if not allowed:
        return InvalidField(field, _uncapitalized(messages[0]))
    wanted = " or ".join(dict.fromkeys(allowed))
    return InvalidField(field, _SHOULD + wanted if field else f"the body should be {wanted}")


def _path(steps: Sequence[int | str]) -> str:
    """Where in a body, without the names that Pydantic has for the types of a union."""
    field = ""
    for step in steps:
        if isinstance(step, int):
            field += f"[{step}]"
        elif not _UNION_MEMBER.fullmatch(step):
            field += f".{step}" if field else step
    return field


def _uncapitalized(text: str) -> str:
    return text[:1].lower() + text[1:]
