"""Messages in the shape of OpenAI's chat API, as protobuf messages."""

import json
from collections.abc import Callable, Iterable
from typing import Any

from glm4v.client.messages import image_part, text_part
from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as pb

_ROLES = {"system": pb.ROLE_SYSTEM, "user": pb.ROLE_USER, "assistant": pb.ROLE_ASSISTANT}


def parse_messages(document: Any, load_image: Callable[[str, str], bytes]) -> list[pb.Message]:
    """A list of {"role", "content"}, with a text or a list of parts as the content.

    A part is {"type": "text", "text"} or {"type": "image_url", "image_url": {"url"}}.
    `load_image(url, place)` returns the bytes of the image file; it decides which URLs it serves.
    Raises InvalidRequest that names the place of the mistake.
    """
    items = _typed(document, list, "the document", "a list of messages")
    return [_message(item, f"messages[{i}]", load_image) for i, item in enumerate(items)]


def shortened(value: Any) -> str:
    """A value as JSON for an error message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:60] + "…"


def _message(item: Any, place: str, load_image: Callable[[str, str], bytes]) -> pb.Message:
    _check_keys(item, place, required=("role", "content"))
    role = _ROLES.get(item["role"]) if isinstance(item["role"], str) else None
    if role is None:
        raise InvalidRequest(
            f"{place}.role is {shortened(item['role'])}; use one of {', '.join(_ROLES)}"
        )
    content = item["content"]
    if isinstance(content, str):
        return pb.Message(role=role, parts=[text_part(content, place)])
    parts = _typed(content, list, f"{place}.content", "a text or a list of parts")
    return pb.Message(
        role=role,
        parts=[_part(part, f"{place}.content[{i}]", load_image) for i, part in enumerate(parts)],
    )


def _part(item: Any, place: str, load_image: Callable[[str, str], bytes]) -> pb.ContentPart:
    kind = _typed(item, dict, place, "an object").get("type")
    if kind == "text":
        _check_keys(item, place, required=("type", "text"))
        return text_part(_typed(item["text"], str, f"{place}.text", "a text"), f"{place}.text")
    if kind == "image_url":
        _check_keys(item, place, required=("type", "image_url"))
        place = f"{place}.image_url"
        # OpenAI's `detail` selects a resolution; this model has only one.
        _check_keys(item["image_url"], place, required=("url",), optional=("detail",))
        url = _typed(item["image_url"]["url"], str, f"{place}.url", "a text")
        return image_part(load_image(url, f"{place}.url"))
    raise InvalidRequest(f"{place}.type is {shortened(kind)}; use one of text, image_url")


def _check_keys(
    item: Any, place: str, *, required: Iterable[str], optional: Iterable[str] = ()
) -> None:
    _typed(item, dict, place, "an object")
    for key in required:
        if key not in item:
            raise InvalidRequest(f"{place} has no {key}")
    for key in item:
        if key not in (*required, *optional):
            raise InvalidRequest(f"{place}.{key}: unknown key; known keys: {', '.join(required)}")


def _typed(value: Any, kind: type, place: str, wanted: str) -> Any:
    if not isinstance(value, kind):
        raise InvalidRequest(f"{place} is {shortened(value)}; it must be {wanted}")
    return value
