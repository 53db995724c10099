"""Conversations in local files: OpenAI-shaped JSON, with images beside it."""

import json
import os
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from glm4v.client.openai_json import parse_messages, shortened
from glm4v.data_url import is_data_url, read_data_url
from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as pb


def read_messages(path: Path) -> list[pb.Message]:
    """A conversation from a JSON file in the shape of OpenAI's chat API.

    An image URL is a path (absolute, or relative to the file's folder or to the current one), a
    file:// URL or a data: URL. Raises InvalidRequest that names the place of the mistake.
    """
    try:
        document = json.loads(read_file(path, "conversation").decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{path} is not a JSON file: {error}") from None
    return parse_messages(document, lambda url, place: _load_image(url, place, path.parent))


def read_file(path: Path, what: str) -> bytes:
    """A file's bytes. Raises InvalidRequest, with path and reason, if it cannot be read."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise InvalidRequest(f"cannot read the {what} {path}: {reason}") from None


def _load_image(url: str, place: str, folder: Path) -> bytes:
    if is_data_url(url):
        return read_data_url(url, place)
    if url[:5].lower() == "file:":
        return read_file(_file_path(url, place), f"image of {place}:")
    if "://" in url:
        raise InvalidRequest(
            f"{place}: images are not downloaded; save {shortened(url)} and use its path"
        )
    beside = folder / url
    return read_file(beside if os.path.exists(beside) else Path(url), f"image of {place}:")


def _file_path(url: str, place: str) -> Path:
    """The path in a file: URL. File names are bytes, in any encoding."""
    try:
        parts = urlsplit(url)
        path = os.fsdecode(unquote_to_bytes(os.fsencode(parts.path)))
    except ValueError as error:
        raise InvalidRequest(f"{place}: {shortened(url)} is not a file: URL: {error}") from None
    if parts.netloc not in ("", "localhost"):
        raise InvalidRequest(f"{place} names the host {parts.netloc}; only local files are read")
    return Path(path)
