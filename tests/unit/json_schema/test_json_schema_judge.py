"""No answer that a schema forbids is let through: the official suite, and schemas by chance."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glm4v.errors import InvalidRequest
from tests.schema_judge import compiled, is_valid, lets_through, written_answer

SUITE: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "suite" / "draft2020-12.json").read_text()
)


def test_the_official_suite_finds_no_invalid_answer_that_is_let_through() -> None:
    counts: Counter[tuple[bool, bool]] = Counter()  # by what is valid and what is let through
    wrong = []
    for name, groups in SUITE.items():
        for group in groups:
            schema = group["schema"]
            try:
                matcher = compiled(schema if isinstance(schema, dict) else {"allOf": [schema]})
            except InvalidRequest:
                continue
            for test in group["tests"]:
                answer = json.dumps(test["data"], separators=(",", ":"), ensure_ascii=False)
                is_let_through = lets_through(matcher, answer)
                counts[test["valid"], is_let_through] += 1
                if is_let_through and not test["valid"]:
                    wrong.append(f"{name}: {group['description']}: {test['description']}")
    assert wrong == []
    assert counts[True, True] > 500  # refusing everything is no way out
    assert counts[False, False] > 400


# Numbers near to each other, so that bounds and answers meet; some beyond what a double holds.
NUMBERS = st.one_of(
    st.integers(-12, 12),
    st.integers(-1200, 1200).map(lambda units: units / 100),
    st.integers(-20, 20).map(lambda units: units / 10**7),
    st.integers(2**53 - 3, 2**53 + 3),
)
BOUNDS = st.dictionaries(
    st.sampled_from(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]),
    NUMBERS,
    max_size=2,
)
MULTIPLES = st.fixed_dictionaries(
    {}, optional={"multipleOf": st.sampled_from([1, 2, 3, 0.5, 0.1, 0.01, 0.25, 1.5, 7, 100_000])}
)
NUMERIC = st.builds(
    lambda kind, bounds, multiple: {"type": kind, **bounds, **multiple},
    st.sampled_from(["number", "integer"]),
    BOUNDS,
    MULTIPLES,
)
SPELLINGS = [
    sign + whole + fraction
    for sign in ("", "-")
    for whole in ("0", "1", "2", "3", "5", "9", "10", "11", "12", "13", "100")
    for fraction in ("", ".0", ".1", ".5", ".25", ".01", ".99", ".001", ".0000001", ".00000201")
] + [str(2**53 + offset) for offset in range(-4, 5)]


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(st.one_of(NUMERIC, st.builds(lambda a, b: {**a, "allOf": [b]}, NUMERIC, NUMERIC)))
def test_numbers_near_their_bounds(schema: dict[str, Any]) -> None:
    try:
        matcher = compiled(schema)
    except InvalidRequest:
        return
    let_through = [text for text in SPELLINGS if lets_through(matcher, text)]
    assert [text for text in let_through if not is_valid(schema, text)] == []


TEXTS = st.text(st.sampled_from('ab1é图\n"\\/-: '), max_size=4)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(TEXTS, inner, max_size=2)),
    max_leaves=4,
)
# Python's re reads \w, ., and $ in ways of its own: those have tests in test_json_schema.
PATTERNS = st.sampled_from(
    ["^a", "[ab]+", "^[^a]{2}", "a|1", "^(?:ab|b)*", "[\\x20-\\x7e]{3}", "é"]
)
FORMATS = st.sampled_from(
    ["date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"]
)
STRINGS = st.fixed_dictionaries(
    {"type": st.just("string")},
    optional={
        "minLength": st.integers(0, 3),
        "maxLength": st.integers(2, 40),
        "pattern": PATTERNS,
        "format": FORMATS,
    },
)
NAMES = st.sampled_from(["a", "b", "ab", "é", "a/b", 'q"', "a\n"])


def _composed(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(inner, min_size=1, max_size=3)
    objects = st.fixed_dictionaries(
        {"type": st.just("object")},
        optional={
            "properties": st.dictionaries(NAMES, inner, max_size=3),
            "required": st.lists(NAMES, max_size=2, unique=True),
            "additionalProperties": st.one_of(st.booleans(), inner),
            "patternProperties": st.dictionaries(PATTERNS, inner, max_size=1),
            "minProperties": st.integers(0, 2),
            "maxProperties": st.integers(1, 3),
        },
    )
    arrays = st.fixed_dictionaries(
        {"type": st.just("array")},
        optional={
            "items": inner,
            "prefixItems": some,
            "minItems": st.integers(0, 2),
            "maxItems": st.integers(1, 3),
        },
    )
    several = st.builds(
        lambda word, parts, beside: {**beside, word: parts},
        st.sampled_from(["anyOf", "oneOf", "allOf"]),
        some,
        st.one_of(st.just({}), inner.filter(lambda schema: isinstance(schema, dict))),
    )
    return st.one_of(objects, arrays, several)


SCHEMAS = st.recursive(
    st.one_of(
        st.booleans(),
        NUMERIC,
        STRINGS,
        VALUES.map(lambda value: {"const": value}),
        st.lists(VALUES, min_size=1, max_size=3).map(lambda values: {"enum": values}),
        st.sampled_from([{}, {"type": ["null", "boolean"]}, {"type": ["string", "integer"]}]),
        st.sampled_from([{"$ref": "#/$defs/one"}, {"$ref": "#/$defs/two", "minimum": 2}]),
    ),
    _composed,
    max_leaves=6,
)


# Definitions hold no references: those to themselves alone say nothing.
_NO_REFERENCES = SCHEMAS.filter(lambda schema: "$ref" not in json.dumps(schema))
DOCUMENTS = st.builds(
    lambda schema, one, two: {**schema, "$defs": {"one": one, "two": two}},
    SCHEMAS.filter(lambda schema: isinstance(schema, dict)),
    _NO_REFERENCES,
    _NO_REFERENCES,
)


@settings(deadline=None, max_examples=250, suppress_health_check=list(HealthCheck))
@given(DOCUMENTS, st.integers(0, 2**32))
def test_answers_written_by_chance_are_valid(schema: dict[str, Any], seed: int) -> None:
    try:
        matcher = compiled(schema)
    except InvalidRequest:
        return
    for number in range(4):
        answer = written_answer(matcher, seed + number)
        if answer is not None:
            assert is_valid(schema, answer), answer


@pytest.mark.parametrize(
    "format_name",
    ["date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"],
)
def test_texts_of_a_format_written_by_chance_are_valid(format_name: str) -> None:
    schema = {"type": "string", "format": format_name}
    matcher = compiled(schema)
    answers = [written_answer(matcher, seed) for seed in range(150)]
    written = {answer for answer in answers if answer is not None}
    assert len(written) > 50
    assert [answer for answer in sorted(written) if not is_valid(schema, answer)] == []


def test_the_judge_knows_wrong_answers() -> None:
    for schema, answer in [
        ({"const": 9007199254740993}, "9007199254740992"),
        ({"exclusiveMinimum": 0, "maximum": 0.5}, "0"),
        ({"multipleOf": 0.01}, "1.001"),
        ({"format": "date"}, '"2023-02-29"'),
        ({"format": "hostname"}, json.dumps("a" * 64)),
        ({"properties": {"a": {"type": "integer"}}}, '{"\\u0061":"x"}'),
    ]:
        assert not is_valid(schema, answer), answer
