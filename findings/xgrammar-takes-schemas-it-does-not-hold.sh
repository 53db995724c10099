#!/usr/bin/env bash
# xgrammar 0.2.9: more than half of what the official JSON Schema tests call invalid is allowed, with no error.
#
# One would expect: a schema that compiles is held to, or the keyword that is not supported is refused.
# Seen on 2026-11-29 (Python 3.11, Linux x86-64, torch 2.13.0) over the official JSON-Schema-Test-Suite as the source
# archive of jsonschema 4.26.0 carries it (draft 2020-12; the files about references, identifiers and vocabularies left out;
# one compact spelling of each instance; any_whitespace and strict_mode off): 231 of 404 invalid instances of schemas that
# compile are allowed; 49 of 494 valid ones are not; 41 have a schema that is refused. Some are announced by a warning on
# standard error (allOf, oneOf). Bounds are dropped where the schema has no "type": {"maximum": 3} allows 4, which is valid
# JSON Schema and what generators write. `not`, `contains`, `if`, `uniqueItems`, `dependentRequired` allow anything.
# With "type" written out, the bounds are held.
# Who meets it: servers whose default backend for structured answers is xgrammar, and clients that come from them.
# xgrammar needs torch; where no CPU build is configured, pip downloads some 3 GB.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip="$work/venv/bin/python -m pip -q --disable-pip-version-check"
$pip install "xgrammar==0.2.9" "torch==2.13.0"
$pip download --no-deps --no-binary :all: --dest "$work" "jsonschema==4.26.0"
tar -C "$work" -xf "$work"/jsonschema-4.26.0.tar.gz

cat >"$work/seen.py" <<'PYTHON'
import collections
import json
import sys
from importlib.metadata import version
from pathlib import Path

import xgrammar

END = 256
LEFT_OUT = {
    "anchor", "content", "defs", "dynamicRef", "format", "id", "infinite-loop-detection", "ref", "refRemote",
    "unknownKeyword", "vocabulary",
}  # fmt: skip
tokens = [bytes([byte]) for byte in range(256)] + [b"<end>"]
compiler = xgrammar.GrammarCompiler(
    xgrammar.TokenizerInfo(tokens, vocab_type=xgrammar.VocabType.RAW, vocab_size=END + 1, stop_token_ids=[END])
)


def compiled(schema):
    text = json.dumps(schema)
    return compiler.compile_json_schema(text, any_whitespace=False, separators=(",", ":"), strict_mode=False)


def allows(grammar, instance):
    matcher = xgrammar.GrammarMatcher(grammar)
    text = json.dumps(instance, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    return all(matcher.accept_token(byte) for byte in text) and matcher.accept_token(END)


def tally(files):
    counts = collections.Counter()
    for file in files:
        for group in json.loads(file.read_text()):
            schema = group["schema"]
            if isinstance(schema, dict):
                schema = {key: value for key, value in schema.items() if key != "$schema"}
            try:
                grammar = compiled(schema)
            except Exception:
                counts["schema refused"] += len(group["tests"])
                continue
            for test in group["tests"]:
                kind = "valid" if test["valid"] else "invalid"
                counts[f"{kind} {'allowed' if allows(grammar, test['data']) else 'not allowed'}"] += 1
    return dict(sorted(counts.items()))


suite = next(Path(sys.argv[1]).glob("jsonschema-*/json/tests/draft2020-12"))
seen = tally(sorted(file for file in suite.glob("*.json") if file.stem not in LEFT_OUT))
examples = {
    '{"maximum": 3} allows 4': allows(compiled({"maximum": 3}), 4),
    '{"type": "integer", "maximum": 3} allows 4': allows(compiled({"type": "integer", "maximum": 3}), 4),
    '{"not": {"type": "integer"}} allows 1': allows(compiled({"not": {"type": "integer"}}), 1),
    '{"uniqueItems": true} allows [1,1]': allows(compiled({"uniqueItems": True}), [1, 1]),
}
print(f"xgrammar {version('xgrammar')}:", seen)
print(examples)
stated = {
    "invalid allowed": 231, "invalid not allowed": 173, "schema refused": 41, "valid allowed": 445,
    "valid not allowed": 49,
}  # fmt: skip
if seen != stated or list(examples.values()) != [True, False, True, True]:
    sys.exit("changed")
PYTHON

"$work/venv/bin/python" "$work/seen.py" "$work"
echo "as stated"
