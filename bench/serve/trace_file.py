"""Traces of real traffic, replayed.

A line is a JSON object, as in Mooncake's traces and those that aiperf replays: `timestamp` in
milliseconds, `input_length` and `output_length` in tokens, and optionally `hash_ids` (the blocks of
512 tokens that the prompt begins with; equal numbers are equal blocks) or `text_input`.
Sources: github.com/kvcache-ai/Mooncake, FAST25-release; aiperf 0.13.0, docs on trace replay.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.serve.request import LoadRequest
from bench.serve.words import words
from glm4v.errors import InvalidRequest

BLOCK_TOKENS = 512  # of a number in `hash_ids`


def read_trace(path: Path, speed: float) -> list[LoadRequest]:
    """The requests of a trace by their arrival, `speed` times as fast as they were.

    Raises InvalidRequest, with the line, for what is not a trace.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}") from None
    found = [_request(f"{path}:{number}", line) for number, line in enumerate(lines, 1) if line]
    if not found:
        raise InvalidRequest(f"{path} has no requests")
    found.sort(key=lambda request: request[0])
    first = found[0][0]
    return [
        LoadRequest(number, (at_ms - first) / 1000 / speed, text, None, max_tokens)
        for number, (at_ms, text, max_tokens) in enumerate(found)
    ]


def _request(place: str, line: str) -> tuple[float, str, int]:
    """Milliseconds, the question, and the length of the answer."""
    try:
        fields = json.loads(line)
    except ValueError:
        raise InvalidRequest(f"{place} is not a JSON object") from None
    if not isinstance(fields, dict):
        raise InvalidRequest(f"{place} is not a JSON object")
    at_ms = _number(place, fields, "timestamp", 0)
    max_tokens = int(_number(place, fields, "output_length", 1))
    text = fields.get("text_input")
    if not isinstance(text, str):
        text = _text(place, fields)
    return at_ms, text, max_tokens


def _text(place: str, fields: dict[str, Any]) -> str:
    length = int(_number(place, fields, "input_length", 1))
    blocks = fields.get("hash_ids", [])
    if not isinstance(blocks, list):
        raise InvalidRequest(f"{place}: hash_ids is not a list")
    return " ".join(_pieces(length, blocks, place))


def _pieces(length: int, blocks: list[Any], place: str) -> Iterator[str]:
    for block in blocks[: -(-length // BLOCK_TOKENS)]:
        yield words(min(BLOCK_TOKENS, length), f"block {block}")
        length -= BLOCK_TOKENS
    if length > 0:
        yield words(length, place.rpartition(":")[2])


def _number(place: str, fields: dict[str, Any], name: str, least: float) -> float:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
        raise InvalidRequest(f"{place}: {name} is {value!r}; a number from {least:g} is needed")
    return float(value)
