#!/usr/bin/env bash
# llguidance 1.9.1, xgrammar 0.2.9, outlines_core 0.2.14, lm-format-enforcer 0.11.3: one regular expression, four languages.
#
# One would expect: `.`, `\d`, `\w` and `\s` mean the same characters wherever a server holds answers to a regular
# expression, those of Python's `re`.
# Seen on 2026-11-29 (Python 3.11, Linux x86-64, torch 2.13.0), whether a text can be generated:
#                               re   llguidance  outlines_core  xgrammar  lm-format-enforcer
#   .    a line feed            no   no          no             yes       no
#   \d   ２ (full width)        yes  yes         yes            no        no
#   \w   图                     yes  yes         yes            no        no
#   \s   U+3000 (CJK space)     yes  yes         yes            yes       no
#   \s   U+FEFF                 no   no          no             yes       no
#   \D   ２                     no   no          no             yes       yes
#   (?i)ab  AB                  yes  yes         yes            refused   yes
#   \p{L}   图                  -    yes         yes            refused   refused
# xgrammar follows ECMAScript in its classes, but lets `.` take a line feed, which ECMAScript does not.
# Who meets it: whoever takes the same expression from one server to another, with Chinese text most of all.
# xgrammar needs torch; where no CPU build is configured, pip downloads some 3 GB.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check "llguidance==1.9.1" "xgrammar==0.2.9" \
    "torch==2.13.0" "outlines_core==0.2.14" "lm-format-enforcer==0.11.3"

cat >"$work/seen.py" <<'PYTHON'
import re
import sys

import llguidance
import xgrammar
from lmformatenforcer import CharacterLevelParserConfig, RegexParser
from outlines_core import Guide, Index, Vocabulary

END, YES, NO, REFUSED = 256, "yes", "no", "refused"
TOKENS = [bytes([byte]) for byte in range(256)]
STATED = {  # (expression, text): re, llguidance, outlines_core, xgrammar, lm-format-enforcer
    (".", "\n"): (NO, NO, NO, YES, NO),
    (r"\d", "２"): (YES, YES, YES, NO, NO),
    (r"\w", "图"): (YES, YES, YES, NO, NO),
    (r"\s", "\u3000"): (YES, YES, YES, YES, NO),
    (r"\s", "\ufeff"): (NO, NO, NO, YES, NO),
    (r"\D", "２"): (NO, NO, NO, YES, YES),
    ("(?i)ab", "AB"): (YES, YES, YES, REFUSED, YES),
    (r"\p{L}", "图"): (REFUSED, YES, YES, REFUSED, REFUSED),
}


class Bytes:
    """One token for each byte, and one for the end."""

    eos_token_id, bos_token_id, special_token_ids, tokens = END, None, [END], [*TOKENS, b"<end>"]

    def __call__(self, text):
        return list(text if isinstance(text, bytes) else text.encode())


def by_re(expression, text):
    return re.fullmatch(expression, text) is not None


def by_llguidance(expression, text):
    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Bytes()))
    matcher = llguidance.LLMatcher(tokenizer, llguidance.LLMatcher.grammar_from_regex(expression))
    ids = list(text.encode())
    return matcher.validate_tokens(ids) == len(ids) and matcher.consume_tokens(ids) and matcher.is_accepting()


def by_outlines_core(expression, text):
    guide = Guide(Index(expression, Vocabulary(END, {token: [number] for number, token in enumerate(TOKENS)})))
    for byte in text.encode():
        if byte not in guide.get_tokens():
            return False
        guide.advance(byte)
    return END in guide.get_tokens()


def by_xgrammar(expression, text):
    tokens = xgrammar.TokenizerInfo(
        [*TOKENS, b"<end>"], vocab_type=xgrammar.VocabType.RAW, vocab_size=END + 1, stop_token_ids=[END]
    )
    matcher = xgrammar.GrammarMatcher(xgrammar.GrammarCompiler(tokens).compile_regex(expression))
    return all(matcher.accept_token(byte) for byte in text.encode()) and matcher.accept_token(END)


def by_lm_format_enforcer(expression, text):
    alphabet = CharacterLevelParserConfig(alphabet="".join(sorted({*"abcABC012 ", *text})))
    parser = RegexParser(expression, alphabet)
    for character in text:
        if character not in parser.get_allowed_characters():
            return False
        parser = parser.add_character(character)
    return parser.can_end()


def seen(can, expression, text):
    try:
        return YES if can(expression, text) else NO
    except Exception:  # each has a kind of its own
        return REFUSED


changed = []
for (expression, text), stated in STATED.items():
    found = tuple(
        seen(can, expression, text)
        for can in (by_re, by_llguidance, by_outlines_core, by_xgrammar, by_lm_format_enforcer)
    )
    print(f"{expression:8} {text!r:10}", *(f"{word:9}" for word in found))
    if found != stated:
        changed.append(expression)
sys.exit(f"changed: {changed}" if changed else 0)
PYTHON

"$work/venv/bin/python" "$work/seen.py"
echo "as stated"
