"""The body of a request: JSON, read within the limits of its call, into the model of a format."""

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request

from gateway.doors.http.calls import Call
from gateway.doors.http.errors import InvalidField
from glm4v.errors import InvalidRequest

_Body = TypeVar("_Body", bound=BaseModel)


class Body(BaseModel):
    """Base of the bodies of all formats: an integer may stand for a float, nothing else differs in
    type, and unknown fields are kept in `model_extra`.
    """

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


async def read_body(request: Request, kind: type[_Body]) -> _Body:
    """The body of a request, which is not kept. Raises InvalidRequest and as `read_bytes`."""
    _refuse_forms(request)
    try:
        return kind.model_validate_json(await read_bytes(request))
    except ValidationError as error:
        raise _invalid_field(error) from None


async def read_bytes(request: Request) -> bytes:
    """The bytes of a body. Raises TooLarge, Overloaded, InvalidRequest and DeadlinePassed."""
    call: Call = request.state.call
    length = request.headers.get("content-length", "")
    return await call.read(request.receive, int(length) if length.isdecimal() else None)


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


def _refuse_forms(request: Request) -> None:
    """Refuse what any web page may send without asking: forms, plain text and untyped bodies."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        seen = kind or "missing"
        raise InvalidRequest(f"Content-Type is {seen}; send Content-Type: application/json")


def _invalid_field(error: ValidationError) -> InvalidField:
    """The first thing that is wrong with a body, where in it, and what is there instead."""
    first = error.errors(include_url=False, include_context=False)[0]
    field = ""
    for step in first["loc"]:
        field += f"[{step}]" if isinstance(step, int) else f".{step}" if field else step
    message = first["msg"][:1].lower() + first["msg"][1:]
    if first["type"] == "json_invalid":
        return InvalidField("", f"the body is not JSON: {message.removeprefix('invalid JSON: ')}")
    return InvalidField(field, message)
