"""Judges answers by `jsonschema` with exact numbers, and writes answers by chance."""

import json
import random
from decimal import Decimal, localcontext
from functools import cache
from typing import Any

import numpy as np
from jsonschema import Draft202012Validator
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from lm_worker.plan import OutputFormat
from lm_worker.structured_output.grammar import compile_grammar

_END = 256
_MOST_DIGITS = 100
_CLOSING = b'"}]'


class _Bytes:
    """A vocabulary of 256 bytes and an end."""

    tokens = [bytes([value]) for value in range(256)] + [b"\xff<end>"]
    special_token_ids = [_END]  # noqa: RUF012
    eos_token_id = _END
    bos_token_id = None

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


@cache
def byte_vocabulary() -> LLTokenizer:
    """One token for each byte, as the grammar library has it."""
    return LLTokenizer(TokenizerWrapper(_Bytes()), n_vocab=_END + 1, eos_token=_END)


def compiled(schema: Any) -> LLMatcher:
    """A schema's matcher, as the worker has it. Raises InvalidRequest."""
    text = schema if isinstance(schema, str) else json.dumps(schema)
    return compile_grammar(OutputFormat("json_schema", text), byte_vocabulary())


def lets_through(matcher: LLMatcher, answer: str) -> bool:
    """Whether the whole answer is let through."""
    matcher = matcher.deep_copy()
    tokens = list(answer.encode())
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def written_answer(matcher: LLMatcher, seed: int, most: int = 400) -> str | None:
    """An answer by chance; None where there is none within `most` bytes."""
    draw = random.Random(seed)
    matcher = matcher.deep_copy()
    written = bytearray()
    while len(written) < most:
        packed = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(packed, bitorder="little")[: _END + 1].nonzero()[0].tolist()
        if matcher.is_error():  # nothing can follow: the request ends with the reason
            return None
        closing = [token for token in allowed if token == _END or token in _CLOSING]
        token = draw.choice(closing if closing and draw.random() < 0.3 else allowed)
        if token == _END:
            return written.decode()
        written.append(token)
        matcher.consume_token(token)
        if matcher.is_stopped():
            return written.decode()
    return None


def is_valid(schema: Any, answer: str) -> bool:
    """What `jsonschema` says, formats included, with numbers as they are written."""
    validator = Draft202012Validator(
        json.loads(json.dumps(schema), parse_float=_number),
        format_checker=Draft202012Validator.FORMAT_CHECKER,
    )
    with localcontext() as context:
        context.prec = 2000  # remainders of long numbers are exact
        return bool(validator.is_valid(json.loads(answer, parse_float=_number)))


def _number(text: str) -> Decimal | int:
    """Whole ones as integers, which they are by the draft."""
    value = Decimal(text)
    is_whole = abs(value.adjusted()) < _MOST_DIGITS and value == value.to_integral_value()
    return int(value) if is_whole else value
