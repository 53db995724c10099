#!/usr/bin/env bash
# outlines_core 0.2.14, 0.2.11 and 0.2.3: strings that match a regular expression cannot be generated.
#
# One would expect: a guide made from a regular expression allows every string that the expression matches as a whole.
# Seen on 2026-11-29 (Python 3.11, Linux x86-64):
# - `yes|yes please` allows "yes" alone, and `1|10` allows "1" alone: where one option is the beginning of another, the
#   longer one is lost, in most cases in either order.
# - Where a vocabulary spells a character in several tokens, as byte-level vocabularies do with rare Chinese characters,
#   `.+` and `.*` stop after the first such character, and `a` followed by one is refused; `..` allows two of them.
# llguidance 1.9.1 allows all of them.
# Who meets it: servers that offer outlines as a backend for choices, regular expressions and patterns in JSON schemas.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
python="$work/venv/bin/python"

cat >"$work/seen.py" <<'PYTHON'
import re
import sys
from importlib.metadata import version

import llguidance
from outlines_core import Guide, Index, Vocabulary

END = 256
CASES = {  # (expression, text): whether outlines_core can generate it
    ("yes|yes please", "yes"): True,
    ("yes|yes please", "yes please"): False,
    ("yes please|yes", "yes please"): False,
    ("1|10", "10"): False,
    (".+", "ab"): True,
    (".+", "图片"): False,
    (".*", "图片"): False,
    (".+", "a图"): False,
    ("..", "图片"): True,
    ("图|图片", "图片"): False,
}


class Bytes:
    """One token for each byte, and one for the end."""

    eos_token_id, bos_token_id, special_token_ids = END, None, [END]
    tokens = [bytes([byte]) for byte in range(256)] + [b"<end>"]

    def __call__(self, text):
        return list(text if isinstance(text, bytes) else text.encode())


def outlines_can(expression, text):
    vocabulary = Vocabulary(END, {bytes([byte]): [byte] for byte in range(256)})
    guide = Guide(Index(expression, vocabulary))
    for byte in text.encode():
        if byte not in guide.get_tokens():
            return False
        guide.advance(byte)
    return END in guide.get_tokens()


def llguidance_can(expression, text):
    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Bytes()))
    matcher = llguidance.LLMatcher(tokenizer, llguidance.LLMatcher.grammar_from_regex(expression))
    ids = list(text.encode())
    return matcher.validate_tokens(ids) == len(ids) and matcher.consume_tokens(ids) and matcher.is_accepting()


changed = []
for (expression, text), stated in CASES.items():
    seen = outlines_can(expression, text), bool(llguidance_can(expression, text)), bool(re.fullmatch(expression, text))
    print(f"outlines_core {version('outlines_core')}: {expression!r} {text!r}: outlines_core {seen[0]}, llguidance {seen[1]}, re {seen[2]}")
    if seen != (stated, True, True):
        changed.append((expression, text))
sys.exit(f"changed: {changed}" if changed else 0)
PYTHON

for version in 0.2.14 0.2.11 0.2.3; do
    "$python" -m pip install -q --disable-pip-version-check "outlines_core==$version" "llguidance==1.9.1"
    "$python" "$work/seen.py"
done
echo "as stated"
