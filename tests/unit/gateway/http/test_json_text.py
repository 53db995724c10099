"""JSON for frames."""

import json

import pytest

from gateway.doors.http.json_text import json_bytes, json_string

TEXTS = ["", "plain", '"quoted"\\', "line\nend\r\x00\x1f", "一只猫", "\x85 \u2028 \u2029", "😀"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_itself_again_and_one_line(text: str) -> None:
    quoted = json_string(text)
    assert json.loads(quoted) == text
    assert len(quoted.splitlines()) == 1
    assert json_bytes({"a": text}) == b'{"a":' + quoted.encode() + b"}"


def test_other_characters_are_not_escaped() -> None:
    assert json_string("猫") == '"猫"'
