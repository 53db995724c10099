"""JSON for frames: compact, and safe to split into lines."""

import json
from json.encoder import encode_basestring
from typing import Any

# Some clients split lines where str.splitlines does; JSON may spell these characters.
_LINE_ENDS = str.maketrans({"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def json_string(text: str) -> str:
    """A text as JSON, in quotes."""
    quoted: str = encode_basestring(text)
    return quoted if quoted.isascii() else quoted.translate(_LINE_ENDS)


def json_bytes(value: Any) -> bytes:
    """A value as JSON."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return (text if text.isascii() else text.translate(_LINE_ENDS)).encode()
