"""Forms of answers as grammars. No torch: this runs in the processes that compile, too."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from glm4v.checkpoint.spec import ModelSpec
from glm4v.checkpoint.vocabulary import SPECIAL_TOKENS, read_ranks
from glm4v.errors import InvalidRequest
from glm4v.json_schema import held_schema
from lm_worker.plan import OutputFormat

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

# What a form may cost in a step. A state of the lexer takes 1 to 2 kB, in every answer of it.
_LIMITS = LLParserLimits(max_lexer_states=20_000, verbose_errors=False)
_MAX_MESSAGE = 300  # characters of the library's
# What the library says by naming an option that nobody has here.
_IN_OUR_WORDS = {
    "oneOf constraints are not supported": "the alternatives of oneOf cannot be told apart by a "
    "type, a constant or a required property; write anyOf, or give each a constant of its own",
}

_JSON_OPTIONS: "JsonCompileOptions" = {
    # Between the parts of JSON. Bounded, as a model can get stuck in white space.
    "whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,32}",
    # Without \u a name is spelled in one way only. With it the library (1.9.1) lets an additional
    # property through that spells a declared name by escapes.
    "json_allowed_escapes": 'nrtbf\\"',
}


def compile_form(form: OutputFormat, vocabulary: LLTokenizer) -> LLMatcher:
    """A matcher that stands at the start of an answer.

    May take any time and memory, and end the process: see `form_compiler`.
    Raises InvalidRequest for a form that is not taken.
    """
    matcher = LLMatcher(vocabulary, grammar(form), log_level=0, limits=_LIMITS)
    if matcher.is_error():
        raise InvalidRequest(f"response_format.{form.kind}: {library_error(matcher)}")
    return matcher


def grammar(form: OutputFormat) -> str:
    """What the library compiles. Raises InvalidRequest for a schema that is not held to."""
    if form.kind == "json_schema":
        return LLMatcher.grammar_from_json_schema(held_schema(form.text), defaults=_JSON_OPTIONS)
    if form.kind == "regex":
        return LLMatcher.grammar_from_regex(form.text)
    options = " | ".join(json.dumps(option) for option in json.loads(form.text))
    return LLMatcher.grammar_from_lark(f"start: {options}")


def library_error(matcher: LLMatcher) -> str:
    """The library's message in one line, without the form that it quotes."""
    message = matcher.get_error().removesuffix("<non-verbose/>")
    for said, ours in _IN_OUR_WORDS.items():
        if said in message:
            return ours
    reasons = [line for line in message.splitlines() if line.startswith("error: ")]
    return " ".join((reasons[0] if reasons else message).split())[:_MAX_MESSAGE]


def read_vocabulary(model_dir: Path, spec: ModelSpec) -> LLTokenizer:
    """The checkpoint's tokens as the library has them. Raises CheckpointError."""
    tokens = _Tokens(model_dir, spec)
    return LLTokenizer(TokenizerWrapper(tokens), n_vocab=spec.tokens, eos_token=tokens.eos_token_id)


class _Tokens:
    """The vocabulary as the library asks for it; a token that begins with FF is a special one."""

    def __init__(self, model_dir: Path, spec: ModelSpec) -> None:
        ranks = read_ranks(model_dir / "tokenizer.model", spec.first_special_id)
        self.tokens = sorted(ranks, key=ranks.__getitem__)
        self.tokens += [b"\xff" + name.encode() for name in SPECIAL_TOKENS]
        self.special_token_ids = list(range(spec.first_special_id, spec.tokens))
        self.eos_token_id = spec.first_special_id
        self.bos_token_id = None
        self._bytes = [ranks[bytes([value])] for value in range(256)]

    def __call__(self, text: bytes) -> list[int]:
        """A token for each byte: for texts that a grammar forces, which nobody asks for here."""
        return [self._bytes[value] for value in text]
