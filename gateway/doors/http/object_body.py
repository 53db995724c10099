"""Bodies of formats that check their fields themselves: any JSON object."""

from typing import Any

from pydantic import ConfigDict, RootModel
from starlette.requests import Request

from gateway.doors.http.body import read_body
from gateway.doors.http.fields import Fields


class ObjectBody(RootModel[dict[str, Any]]):
    model_config = ConfigDict(strict=True)


async def read_object(request: Request) -> Fields:
    """The fields of a body. Raises as `read_body`."""
    return Fields((await read_body(request, ObjectBody)).root)


def described_by(*examples: dict[str, Any]) -> dict[str, Any]:
    """What OpenAPI says of such a body, for `openapi_extra`."""
    named = {str(number): {"value": example} for number, example in enumerate(examples, 1)}
    content = {"schema": {"type": "object"}, "examples": named}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}
