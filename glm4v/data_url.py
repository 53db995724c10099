"""The bytes in a data: URL, as browsers read them (RFC 2397; WHATWG "Fetch", data: URLs)."""

import base64
import re
from urllib.parse import unquote_to_bytes

from glm4v.errors import InvalidRequest

_SPACES = " \t\n\f\r"
_IS_BASE64 = re.compile(r";[ ]*base64[ ]*$", re.IGNORECASE)
_FOREIGN = re.compile(rb"[^A-Za-z0-9+/]")
_DELETED = _SPACES.encode()
_STANDARD = bytes.maketrans(b"-_", b"+/")


def is_data_url(text: str) -> bool:
    """Whether it is one; spaces around it do not count, nor does the case of "data:"."""
    return text.strip(_SPACES)[:5].lower() == "data:"


def read_data_url(text: str, place: str) -> bytes:
    """The decoded bytes. Raises InvalidRequest that begins with `place` and says what is wrong.

    Base64 may be broken into lines, lack its padding or use the alphabet for URLs, as in mail, in
    tokens and in what some clients send. Without ";base64" the data are percent-encoded.
    """
    head, comma, data = text.strip(_SPACES).partition(",")
    if not comma:
        raise InvalidRequest(f"{place}: a data: URL has a comma before its data; there is none")
    try:
        content = unquote_to_bytes(data)
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{place}: no Unicode text at character {error.start}") from None
    if _IS_BASE64.search(head):
        return _from_base64(content, place)
    if "%" not in data:  # no image file is text alone
        raise InvalidRequest(f"{place}: a data: URL of an image reads data:image/TYPE;base64,DATA")
    return content


def _from_base64(content: bytes, place: str) -> bytes:
    digits = content.translate(_STANDARD, delete=_DELETED)
    body = digits.rstrip(b"=")
    padding = len(digits) - len(body)
    if foreign := _FOREIGN.search(body):
        seen = body[foreign.start() :][:4].decode(errors="replace")[0]
        raise InvalidRequest(
            f"{place}: {seen!r} at character {foreign.start()} of the data is not base64"
        )
    if len(body) % 4 == 1:
        raise InvalidRequest(f"{place}: the base64 data are cut off after {len(body)} characters")
    if padding and len(digits) % 4:
        raise InvalidRequest(
            f"{place}: {len(body)} characters of base64 do not end with {padding} '='"
        )
    return base64.b64decode(body + b"=" * (-len(body) % 4))
