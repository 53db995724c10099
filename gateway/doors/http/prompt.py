"""The prompt of a request in MindIE's formats: a text, or a list of texts and one image.

The words of an error are MindIE's, as far as it has some.
"""

from collections.abc import Sequence
from typing import Any

from gateway.doors.http.content import read_content
from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as api

_MAX_URLS = 20
_URLS = ("image_url", "video_url", "audio_url")
_EMPTY = {
    "inputs": "Inputs arr is empty",
    "prompt": "Prompt arr is empty",
    "text_input": "Parameter text_input arr is empty",
}


def read_prompt(value: Any, name: str) -> list[api.ContentPart]:
    """The parts of the field called `name`. Raises InvalidRequest."""
    if isinstance(value, list):
        _check_list(value, name)
    elif not isinstance(value, str):
        raise InvalidRequest(f"The type of {name} is abnormal")
    return read_content(value, name)


def user_message(parts: Sequence[api.ContentPart]) -> api.Message:
    """The prompt as a conversation of one message."""
    return api.Message(role=api.ROLE_USER, parts=parts)


def first_text(parts: Sequence[api.ContentPart]) -> str:
    """The text that an answer with its prompt begins with."""
    return next((part.text for part in parts if part.WhichOneof("content") == "text"), "")


def _check_list(items: list[Any], name: str) -> None:
    if not items:
        raise InvalidRequest(_EMPTY[name])
    urls = 0
    for item in items:
        if not isinstance(item, dict):
            continue
        if "text" in item and not isinstance(item["text"], str):
            raise InvalidRequest("Request param text must be string")
        for key in _URLS:
            if key in item and item[key] is None:
                raise InvalidRequest(f"Request param {key} null")
        urls += any(key in item for key in _URLS)
        if urls > _MAX_URLS:
            raise InvalidRequest(f"The number of multimodal url should be no more than {_MAX_URLS}")
