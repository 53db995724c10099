"""The body of a request: JSON, and after it the tensors that are sent in the binary form."""

from typing import Any

from starlette.requests import Request

from gateway.doors.http.body import parse_body, read_bytes, refuse_forms
from gateway.doors.http.object_body import ObjectBody
from glm4v.errors import InvalidRequest

HEADER_LENGTH = "inference-header-content-length"  # bytes of JSON, if tensors follow


async def read_object_and_rest(request: Request) -> tuple[dict[str, Any], bytes]:
    """The JSON object, and what follows it. Raises as `read_bytes`."""
    refuse_forms(request)
    content = await read_bytes(request)
    length = request.headers.get(HEADER_LENGTH)
    if length is None:
        return parse_body(content, ObjectBody).root, b""
    if not length.isdecimal() or int(length) > len(content):
        raise InvalidRequest(
            f"Inference-Header-Content-Length is {length[:20]!r}, the body has {len(content)} "
            "bytes; send the number of its bytes of JSON"
        )
    return parse_body(content[: int(length)], ObjectBody).root, content[int(length) :]
