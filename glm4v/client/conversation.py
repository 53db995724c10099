"""Conversations: from OpenAI-shaped JSON files, or from one question, to protobuf messages."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from glm4v.data_url import is_data_url, read_data_url
from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as pb

_ROLES = {"system": pb.ROLE_SYSTEM, "user": pb.ROLE_USER, "assistant": pb.ROLE_ASSISTANT}


def question(image: bytes | None, text: str) -> list[pb.Message]:
    """A conversation of one user message: an image file's bytes, or none, and a text.

    Raises InvalidRequest for a text that is not Unicode, as an argument of a command may be.
    """
    parts = [pb.ContentPart(text=_text(text, "the question"))]
    if image is not None:
        parts.insert(0, _image_part(image))
    return [pb.Message(role=pb.ROLE_USER, parts=parts)]


def answered(text: str) -> pb.Message:
    """What the model said, for the next question about the same image.

    An answer's text as it is: the template makes the model's own tokens of it.
    """
    return pb.Message(
        role=pb.ROLE_ASSISTANT, parts=[pb.ContentPart(text=_text(text, "the answer"))]
    )


def attach_image(messages: Sequence[pb.Message], image: bytes) -> None:
    """Put an image into the first user message.

    Raises InvalidRequest when the conversation has an image already, or no user message.
    """
    for index, message in enumerate(messages):
        if any(part.HasField("image") for part in message.parts):
            raise InvalidRequest(
                f"messages[{index}] has an image already, and a conversation takes one"
            )
    for message in messages:
        if message.role == pb.ROLE_USER:
            message.parts.insert(0, _image_part(image))
            return
    raise InvalidRequest(
        f"none of the {len(messages)} messages is the user's: there is no place for the image"
    )


def read_messages(path: Path) -> list[pb.Message]:
    """A conversation from a JSON file in the OpenAI shape.

    A list of {"role", "content"}; the content is a text or a list of {"type": "text", "text"} and
    {"type": "image_url", "image_url": {"url"}}. A url is a path (absolute, or relative to the
    file's folder or the current one), a file:// URL or a data: URL with base64. Raises
    InvalidRequest that names the place.
    """
    try:
        document = json.loads(read_file(path, "conversation").decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{path} is not a JSON file: {error}") from None
    items = _typed(document, list, f"{path}: the whole", "a list of messages")
    return [_message(item, f"messages[{index}]", path.parent) for index, item in enumerate(items)]


def read_file(path: Path, what: str) -> bytes:
    """A file's bytes; InvalidRequest names it and the reason when it cannot be read."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise InvalidRequest(f"cannot read the {what} {path}: {reason}") from None


def _image_part(image: bytes) -> pb.ContentPart:
    return pb.ContentPart(image=pb.Image(data=image))


def _message(item: Any, place: str, folder: Path) -> pb.Message:
    _keys(item, place, needed=("role", "content"))
    role = _ROLES.get(item["role"]) if isinstance(item["role"], str) else None
    if role is None:
        raise InvalidRequest(f"{place}.role is {_seen(item['role'])}; use one of {_list(_ROLES)}")
    content = item["content"]
    if isinstance(content, str):
        return pb.Message(role=role, parts=[pb.ContentPart(text=_text(content, place))])
    parts = _typed(content, list, f"{place}.content", "a text or a list of parts")
    return pb.Message(
        role=role,
        parts=[_part(part, f"{place}.content[{i}]", folder) for i, part in enumerate(parts)],
    )


def _part(item: Any, place: str, folder: Path) -> pb.ContentPart:
    kind = _typed(item, dict, place, "an object").get("type")
    if kind == "text":
        _keys(item, place, needed=("type", "text"))
        text = _typed(item["text"], str, f"{place}.text", "a text")
        return pb.ContentPart(text=_text(text, f"{place}.text"))
    if kind == "image_url":
        _keys(item, place, needed=("type", "image_url"))
        place = f"{place}.image_url"
        # OpenAI's `detail` chooses a resolution; this model has one.
        _keys(item["image_url"], place, needed=("url",), optional=("detail",))
        url = _typed(item["image_url"]["url"], str, f"{place}.url", "a text")
        return _image_part(_image(url, f"{place}.url", folder))
    raise InvalidRequest(f"{place}.type is {_seen(kind)}; use one of text, image_url")


def _image(url: str, place: str, folder: Path) -> bytes:
    if is_data_url(url):
        return read_data_url(url, place)
    if url[:5].lower() == "file:":
        return read_file(_file_path(url, place), f"image of {place}:")
    if "://" in url:
        raise InvalidRequest(
            f"{place}: images are not fetched from the network; save {_seen(url)} and give its path"
        )
    beside = folder / url
    return read_file(beside if os.path.exists(beside) else Path(url), f"image of {place}:")


def _file_path(url: str, place: str) -> Path:
    """The path in a file: URL; the names of files are bytes, whatever they mean."""
    try:
        parts = urlsplit(url)
        path = os.fsdecode(unquote_to_bytes(os.fsencode(parts.path)))
    except ValueError as error:
        raise InvalidRequest(f"{place}: {_seen(url)} is no file: URL: {error}") from None
    if parts.netloc not in ("", "localhost"):
        raise InvalidRequest(f"{place} names the host {parts.netloc}; only local files work")
    return Path(path)


def _text(text: str, place: str) -> str:
    """The text, if protobuf can hold it.

    JSON can spell half of a character pair, and Python keeps bytes of an argument that are not
    UTF-8 as such halves.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{place}: not Unicode text at character {error.start}") from None
    return text


def _keys(item: Any, place: str, *, needed: Iterable[str], optional: Iterable[str] = ()) -> None:
    _typed(item, dict, place, "an object")
    for key in needed:
        if key not in item:
            raise InvalidRequest(f"{place} has no {key}")
    for key in item:
        if key not in (*needed, *optional):
            raise InvalidRequest(f"{place}.{key}: no such key; known are {_list(needed)}")


def _typed(value: Any, kind: type, place: str, wanted: str) -> Any:
    if not isinstance(value, kind):
        raise InvalidRequest(f"{place} is {_seen(value)}; it must be {wanted}")
    return value


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)


def _seen(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:60] + "…"
