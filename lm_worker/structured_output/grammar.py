"""Response formats as grammars of llguidance. No torch: compiler processes import this too."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from glm4v.checkpoint.spec import ModelSpec
from glm4v.checkpoint.vocabulary import PATTERN, SPECIAL_TOKENS, read_ranks
from glm4v.errors import InvalidRequest
from glm4v.json_schema import held_schema
from lm_worker.plan import OutputFormat

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

# Limits within a step. A lexer state takes 1 to 2 kB, in every request.
_LIMITS = LLParserLimits(max_lexer_states=20_000, verbose_errors=False)
_MAX_MESSAGE = 300  # characters of the library's message
# Messages of the library that name an option which does not exist here.
_REPLACED_MESSAGES = {
    "oneOf constraints are not supported": "the alternatives of oneOf cannot be told apart by a "
    "type, a constant or a required property; write anyOf, or give each a constant of its own",
}

_JSON_OPTIONS: "JsonCompileOptions" = {
    # Limited, because a model can get stuck in white space.
    "whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,32}",
    # Without \u every name has one spelling. With it the library (1.9.1) accepts a declared name
    # spelled with escapes as an additional property.
    "json_allowed_escapes": 'nrtbf\\"',
}


def compile_grammar(output_format: OutputFormat, vocabulary: LLTokenizer) -> LLMatcher:
    """A matcher at the start of the output.

    May take any time and memory, or crash the process: see `compiler`.
    Raises InvalidRequest if the format is not supported.
    """
    matcher = LLMatcher(vocabulary, _source(output_format), log_level=0, limits=_LIMITS)
    if matcher.is_error():
        raise InvalidRequest(f"response_format.{output_format.kind}: {library_error(matcher)}")
    return matcher


def _source(output_format: OutputFormat) -> str:
    """The grammar's source. Raises InvalidRequest for a schema with unsupported keywords."""
    if output_format.kind == "json_schema":
        return LLMatcher.grammar_from_json_schema(
            held_schema(output_format.text), defaults=_JSON_OPTIONS
        )
    if output_format.kind == "regex":
        return LLMatcher.grammar_from_regex(output_format.text)
    options = " | ".join(json.dumps(option) for option in json.loads(output_format.text))
    return LLMatcher.grammar_from_lark(f"start: {options}")


def library_error(matcher: LLMatcher) -> str:
    """The library's message in one line, without the format that it quotes."""
    message = matcher.get_error().removesuffix("<non-verbose/>")
    for original, replacement in _REPLACED_MESSAGES.items():
        if original in message:
            return replacement
    reasons = [line for line in message.splitlines() if line.startswith("error: ")]
    return " ".join((reasons[0] if reasons else message).split())[:_MAX_MESSAGE]


def read_vocabulary(model_dir: Path, spec: ModelSpec) -> LLTokenizer:
    """The checkpoint's tokens for the library. Raises CheckpointError."""
    ranks = read_ranks(model_dir / "tokenizer.model", spec.first_special_id)
    special = {name: spec.first_special_id + at for at, name in enumerate(SPECIAL_TOKENS)}
    # A method that the library's annotations leave out; it is behind its own `tiktoken` module.
    make = LLTokenizer.from_tiktoken  # type: ignore[attr-defined]
    vocabulary: LLTokenizer = make(
        encoder=ranks,
        special_tokens=special,
        pattern=PATTERN,
        eos_token=spec.first_special_id,
        n_vocab=spec.tokens,
    )
    return vocabulary
