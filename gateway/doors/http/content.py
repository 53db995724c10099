"""The content of a message as all formats write it: text, or a list of texts and one image.

    "text"
    [{"type": "text", "text": "..."}, {"type": "image_url", "image_url": IMAGE}]

IMAGE is a string or {"url": string}: a data: URL, bare base64, or `sha256:` and the digest of a
file that was sent before. Nothing is fetched, and no file is read. Source: MindIE's multimodal
content list, and the chat API of OpenAI; what they know beside these, as `detail`, says nothing
here.
"""

import binascii
import re
from base64 import b64decode
from typing import Any

from glm4v.data_url import is_data_url, read_data_url
from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as api

_INSTEAD = "send the file itself as data:image/jpeg;base64,DATA"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{1,15}):")
_SHOWN = 60  # characters of a value in an error
_SMALLEST = 32  # characters of base64 that may be an image


def read_content(content: Any, place: str) -> list[api.ContentPart]:
    """The parts of a message; none for null. Raises InvalidRequest that names the place."""
    if content is None:
        return []
    if isinstance(content, str):
        return [_text(content, place)]
    if not isinstance(content, list):
        raise InvalidRequest(f"{place} is {_kind(content)}; send a text or a list of parts")
    return [_part(item, f"{place}[{index}]") for index, item in enumerate(content)]


def read_image(value: Any, place: str) -> api.Image:
    """An image. Raises InvalidRequest that names the place and says what to send instead."""
    if isinstance(value, dict):
        value, place = value.get("url"), f"{place}.url"
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{place} is {_kind(value)}; {_INSTEAD}")
    if is_data_url(value):
        return api.Image(data=read_data_url(value, place))
    if value.startswith("sha256:"):
        return api.Image(digest=value.removeprefix("sha256:"))
    if scheme := _SCHEME.match(value):
        what = "files are not read" if scheme[1].lower() == "file" else "URLs are not fetched"
        raise InvalidRequest(f"{place} is {_shown(value)}: {what}; {_INSTEAD}")
    return api.Image(data=_bare(value, place))


def _part(item: Any, place: str) -> api.ContentPart:
    if isinstance(item, str):
        return _text(item, place)
    if not isinstance(item, dict):
        raise InvalidRequest(f"{place} is {_kind(item)}; send an object with a type")
    kind = item.get("type")
    if kind == "text":
        return _text(item.get("text"), f"{place}.text")
    if kind == "image_url":
        return api.ContentPart(image=read_image(item.get("image_url"), f"{place}.image_url"))
    raise InvalidRequest(
        f"{place}.type is {_shown(kind)}; text and image_url are served; video, audio and files "
        "are not"
    )


def _text(text: Any, place: str) -> api.ContentPart:
    if not isinstance(text, str):
        raise InvalidRequest(f"{place} is {_kind(text)}; send a text")
    try:
        return api.ContentPart(text=text)
    except (UnicodeEncodeError, ValueError):  # JSON can spell one half of a surrogate pair
        raise InvalidRequest(f"{place} is not Unicode text") from None


def _bare(text: str, place: str) -> bytes:
    """Base64 without a URL. A path has a dot or few characters, as base64 has not."""
    try:
        if len(text) < _SMALLEST or "." in text[:4096]:
            raise ValueError
        return b64decode("".join(text.split()), validate=True)
    except (ValueError, binascii.Error):
        raise InvalidRequest(
            f"{place} is {_shown(text)}: neither a data: URL nor base64, and files are not read; "
            f"{_INSTEAD}"
        ) from None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _kind(value: Any) -> str:
    """What a JSON value is, for an error."""
    if value is None:
        return "missing"
    names = {dict: "an object", list: "a list", bool: "a boolean", str: "an empty text"}
    return names.get(type(value), "a number")
