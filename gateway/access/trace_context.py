"""The trace context that a caller sends, https://www.w3.org/TR/trace-context/#traceparent-header."""

import re

HEADER = "traceparent"
_IDS = r"-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
# Newer versions may add fields; what is known of them is read.
_FORM = re.compile(rf"00{_IDS}|(?!00|ff)[0-9a-f]{{2}}{_IDS}(-.*)?")
_MAX_LENGTH = 128


def traceparent(value: str | None) -> str:
    """A header's value, empty unless it is valid: the standard asks to ignore an invalid one."""
    is_valid = value is not None and len(value) <= _MAX_LENGTH and _FORM.fullmatch(value)
    return value if value is not None and is_valid else ""
