"""JSON schemas: what is held to is written so that it is exact, the rest is refused by name."""

import calendar
import ipaddress
import json
import re
from typing import Any

import pytest

from glm4v.errors import InvalidRequest
from glm4v.json_schema import held_schema
from glm4v.json_schema.formats import REWRITTEN
from tests.schema_judge import compiled, lets_through


def held(schema: Any) -> Any:
    return json.loads(held_schema(json.dumps(schema)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "json_schema is not JSON: .*char 1"),
        ("[1]", r"json_schema is '\[1\]'; a JSON object"),
        ("[" * 60_000, "json_schema is nested too deeply"),
        ('{"type": "string", "type": "integer"}', "has the key 'type' twice"),
        ('{"minimum": NaN}', "NaN is no JSON number"),
        ('{"maximum": -Infinity}', "-Infinity is no JSON number"),
        ('{"const": 1e99999999999999999999}', "exponent of 1e9+ is too large"),
        ('{"const": 1e400}', r"/const: 1E\+400 is beyond ±9007199254740991"),
        ('{"const": "\\ud800"}', r"/const: the character U\+D800 cannot be written"),
        (r'{"properties": {"\ud800": {}}}', r"the schema: U\+D800 is half a character"),
        (r'{"required": ["a\udfff"]}', r"the schema: U\+DFFF is half a character"),
        (r'{"$ref": "#/$defs/\ud800", "$defs": {"\ud800": {}}}', "half a character"),
        ('{"items":' * 500 + "{}" + "}" * 500, "nested more than 100 deep"),
    ],
)
def test_text_that_is_no_schema(text: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as refused:
        held_schema(text)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"const": 1234567890123456789}, "/const: .* is beyond .*write it as a string"),
        ({"enum": ["a", {"b": [-(2**53)]}]}, "/enum/1/b/0: -9007199254740992 is beyond"),
        ({"properties": {"id": {"minimum": 2**53}}}, "/properties/id/minimum: .*beyond"),
        ({"maximum": -1e300}, "/maximum: .*beyond"),
        ({"exclusiveMinimum": 2**63}, "/exclusiveMinimum: .*beyond"),
        ({"exclusiveMaximum": 2**64}, "/exclusiveMaximum: .*beyond"),
        ({"multipleOf": 2**53}, "/multipleOf: .*beyond"),
        ({"multipleOf": 0}, "/multipleOf: 0 is not above 0"),
        ({"multipleOf": -2}, "/multipleOf: -2 is not above 0"),
        ({"multipleOf": 10_001}, "/multipleOf: 10001 without its decimal point is above 10000"),
        ({"multipleOf": 0.07}, "/multipleOf: 0.07 is not exact in binary steps of ten"),
        ({"exclusiveMinimum": 0, "maximum": 0.5}, "/exclusiveMinimum: 0 .*ends at 0.5"),
        ({"exclusiveMaximum": -3, "minimum": -3.5}, "/exclusiveMaximum: -3 .*ends at -3.5"),
        (
            {"exclusiveMinimum": 0, "allOf": [{"maximum": 0.5}]},
            "/exclusiveMinimum: 0 .*ends at 0.5",
        ),
        ({"allOf": [{"multipleOf": 4000}, {"multipleOf": 4001}]}, "together .* at most 10000"),
        ({"exclusiveMinimum": True, "minimum": 4}, "/exclusiveMinimum: .*draft 4"),
        ({"minimum": "4"}, '/minimum: "4" is no number'),
        ({"maxLength": -1}, "/maxLength: -1 is no whole number"),
        ({"maxLength": 1.5}, "/maxLength: 1.5 is no whole number"),
        ({"type": "object", "minProperties": 2}, "/minProperties: at most 1 is held to"),
        ({"type": "strin"}, '/type: "strin" is no type; did you mean string'),
        ({"type": []}, "/type: the list is empty"),
        ({"type": ["integer", None]}, "/type: null is no type"),
        ({"maxlength": 3}, "/maxlength: no keyword of JSON schema; did you mean maxLength"),
        ({"additionalproperties": False}, "did you mean additionalProperties"),
        ({"type": "number", "format": "int32"}, '/format: "int32" .* beside the type integer only'),
        ({"format": "uint8"}, '/format: "uint8" .* beside the type integer only'),
        ({"type": ["string", "integer"], "format": "int32"}, "beside the type integer only"),
        ({"colour": 1}, "/colour: no keyword of JSON schema; remove it, or let its name begin"),
        ({"nullable": True}, '/nullable: .*add "null" to the type'),
        ({"divisibleBy": 3}, "/divisibleBy: .*write multipleOf"),
        ({"uniqueItems": True}, "/uniqueItems: this keyword is not held to; remove it"),
        ({"not": {}}, "/not: this keyword is not held to"),
        ({"properties": {"a": {"required": True}}}, "/properties/a/required: true is no list"),
        ({"items": [{}]}, "/items: a list is of an older draft; write prefixItems"),
        ({"properties": {"a": {"$id": "x"}}}, r"/properties/a/\$id: .*root only"),
        ({"$ref": "http://127.0.0.1/x.json"}, r"/\$ref: .* is no schema of this document"),
        ({"$ref": "#/default", "default": {}}, r"/\$ref: .* is no schema of this document"),
        ({"items": 3}, "/items: 3 is no schema"),
        ({"anyOf": []}, "/anyOf: .*is empty"),
        ({"enum": []}, "/enum: .*is empty"),
        ({"properties": []}, "/properties: .*is no object"),
        ({"format": "dates"}, '/format: "dates" is not held to; did you mean date'),
        ({"format": "uuid4"}, "did you mean uuid"),
        ({"pattern": 3}, "/pattern: 3 is no string"),
        ({"const": "\x07"}, r"/const: the character U\+0007 cannot be written"),
        ({"name": "x", "strict": True, "schema": {"colour": 1}}, "json_schema: /colour: no keyw"),
    ],
)
def test_what_is_not_held_to_is_refused_with_its_place(schema: Any, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said) as refused:
        held(schema)
    assert "\n" not in str(refused.value)


def test_long_decimals_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"/const: .* more digits than a double holds"):
        held_schema('{"const": 0.1000000000000000000000001}')
    with pytest.raises(InvalidRequest, match=r"/minimum: .* more digits than a double holds"):
        held_schema('{"minimum": 1e-999999}')


@pytest.mark.parametrize("text", ["1.0", "1e0", "10e-1", "1"])
def test_whole_numbers_are_integers_however_they_are_written(text: str) -> None:
    assert held_schema(f'{{"const":{text}}}') == '{"const":1}'


def test_openai_wrappers_are_taken_off() -> None:
    schema = {"type": "integer", "minimum": 3}
    inner = {"name": "answer", "strict": True, "schema": schema}
    assert held(inner) == held({"type": "json_schema", "json_schema": inner}) == schema
    assert held({"schema": schema}) == schema
    responses = {"type": "json_schema", **inner}
    assert held(responses) == held({"format": responses}) == schema
    assert held({"type": "json_schema", "json_schema": inner, "strict": True}) == schema


def test_names_are_strings_without_being_told() -> None:
    """zod 4 writes it for every z.record(z.string(), …)."""
    record = {"type": "object", "additionalProperties": {"type": "null"}}
    assert held(record | {"propertyNames": {"type": "string"}}) == record
    assert held(record | {"propertyNames": {}}) == record
    with pytest.raises(InvalidRequest, match="/propertyNames: this keyword is not held to"):
        held(record | {"propertyNames": {"type": "string", "maxLength": 3}})


@pytest.mark.parametrize(
    ("schema", "yes", "no"),
    [
        ({"type": "integer", "format": "uint8"}, ("0", "255"), ("-1", "256")),
        ({"type": "integer", "format": "int32"}, ("-2147483648",), ("-2147483649", "2147483648")),
        ({"type": "integer", "format": "int32", "minimum": 7}, ("7",), ("6",)),
        ({"type": "integer", "format": "uint64", "minimum": 0.0}, (str(2**53 - 1),), ("-1",)),
        ({"type": ["integer", "null"], "format": "uint"}, ("null", "1"), ("-1", '"a"')),
        ({"type": "number", "format": "double"}, ("0.25", "-3"), ("1e999",)),
    ],
)
def test_formats_of_numbers_are_ranges(
    schema: Any, yes: tuple[str, ...], no: tuple[str, ...]
) -> None:
    """As OpenAPI's registry of formats and schemars have them."""
    matcher = compiled(schema)
    assert [lets_through(matcher, answer) for answer in (*yes, *no)] == (
        [True] * len(yes) + [False] * len(no)
    )


def test_alternatives_of_one_of_with_values_of_their_own_are_told_apart() -> None:
    numbers = {"oneOf": [{"const": 1, "title": "low"}, {"type": "integer", "enum": [2, 3]}]}
    assert [lets_through(compiled(numbers), answer) for answer in "1234"] == [True] * 3 + [False]
    objects = {"oneOf": [{"const": {"a": 1}}, {"const": {"a": 2}}]}
    assert lets_through(compiled(objects), '{"a":2}')
    assert lets_through(compiled({"oneOf": [{"const": 1}, {"const": True}]}), "true")
    beside = {"oneOf": [{"const": 1}, {"const": 2}], "enum": [2, 5]}
    assert [lets_through(compiled(beside), answer) for answer in "125"] == [False, True, False]


@pytest.mark.parametrize("more", [[], ["ring"]])  # the first as pydantic 2.9 writes Literal
def test_a_constant_that_its_enum_repeats_tells_alternatives_apart(more: list[str]) -> None:
    options = [
        {
            "type": "object",
            "properties": {"kind": {"const": kind, "enum": [kind, *more]}},
            "required": ["kind"],
        }
        for kind in ("circle", "square")
    ]
    matcher = compiled({"oneOf": options})
    found = [lets_through(matcher, f'{{"kind":"{kind}"}}') for kind in ("circle", "ring", "square")]
    assert found == [True, False, True]


@pytest.mark.parametrize("schema", [{"const": 1, "enum": [2, 3]}, {"const": 1, "enum": [True]}])
def test_a_constant_that_is_not_in_its_enum_is_not_written_without_it(schema: Any) -> None:
    assert held(schema) == schema


@pytest.mark.parametrize(
    "options",
    [
        [{"const": 1}, {"const": 1.0}],
        [{"enum": ["a", "b"]}, {"enum": ["b", "c"]}],
        [{"const": {"a": 1, "b": 2}}, {"const": {"b": 2, "a": 1}}],
        [{"type": "integer"}, {"type": "number"}],
    ],
)
def test_alternatives_of_one_of_that_overlap_are_refused(options: list[Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"oneOf cannot be told apart .*; write anyOf"):
        compiled({"oneOf": options})


def test_references_that_only_lead_back_are_refused() -> None:
    circle = {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}
    for schema in ({"$ref": "#"}, {"$defs": circle, "type": "null"}):
        with pytest.raises(InvalidRequest, match="/\\$ref: it leads back to itself"):
            held(schema)
    held({"type": "array", "items": {"$ref": "#"}})
    chain = {str(i): {"$ref": f"#/$defs/{i + 1}"} for i in range(2000)} | {"2000": {}}
    held({"$defs": chain})


@pytest.mark.parametrize("name", ["List[int]", "Größe", "a b", "50%", "Map<K,V>", "a#b"])
def test_references_name_schemas_as_their_tools_do(name: str) -> None:
    schema = {"$ref": f"#/$defs/{name.replace('%', '%25')}", "$defs": {name: {"type": "null"}}}
    assert lets_through(compiled(schema), "null")


def test_annotations_are_left_out_and_the_librarys_own_options_with_them() -> None:
    annotations = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://example.com/a",
        "title": "a",
        "description": "b",
        "default": 10**30,
        "examples": [10**30, {"minimum": "x"}],
        "$comment": "c",
        "deprecated": True,
        "readOnly": True,
        "discriminator": {"propertyName": "kind"},
        "x-guidance": {"lenient": True, "coerce_one_of": True},
        "uniqueItems": False,
        "nullable": False,
    }
    assert held({**annotations, "type": "integer"}) == {"type": "integer"}


def test_names_and_values_that_look_like_keywords_are_what_they_are() -> None:
    schema = {
        "type": "object",
        "properties": {"maxlength": {"type": "string"}, "not": True, "$ref": {"const": "a"}},
        "required": ["not"],
        "$defs": {"nullable": {"enum": [{"nullable": True, "title": "x"}]}},
    }
    assert held(schema) == schema


def test_references_reach_any_schema_of_the_document() -> None:
    schema = {
        "properties": {"a/b": {"type": "null"}, "ä~": {"$ref": "#/properties/a~1b"}},
        "anyOf": [{"$ref": "#"}, {"$ref": "#/properties/%C3%A4~0"}],
        "definitions": {"old": {"$ref": "#/anyOf/1"}},
    }
    assert held(schema) == schema


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [  # ECMA-262, 22.2
        (r"^\d$", "7", "７"),
        (r"^\w$", "a", "é"),
        (r"^\W$", "é", "a"),
        (r"^.$", "a", "\u2028"),
        (r"^\s$", "\ufeff", "\x85"),
        (r"^\S$", "\x85", "\ufeff"),
        (r"^[\s]$", "\u3000", "\x85"),
        (r"^[^\s]$", "\x85", "\ufeff"),
        (r"^a$", "a", "a\n"),
        (r"^\<\@\_\/\-$", "<@_/-", "@_/-"),
        (r"^\u4e2d\x41\u{56fd}$", "中A国", "中a国"),
        (r"^\p{Lu}$", "Ä", "ä"),
        (r"^(?<first>a)(?:b)$", "ab", "a"),
        (r"^[.]$", ".", "a"),
        (r"b", "abc", "ac"),
    ],
)
def test_patterns_are_read_as_ecmascript_reads_them(pattern: str, yes: str, no: str) -> None:
    matcher = compiled({"type": "string", "pattern": pattern})
    assert lets_through(matcher, json.dumps(yes, ensure_ascii=False))
    assert not lets_through(matcher, json.dumps(no, ensure_ascii=False))


@pytest.mark.parametrize(
    "pattern",
    [
        *(r"^(?=a)", r"(?<!a)b", r"(?i)a", r"\1", r"\ba", r"\Aa", r"\cJ", r"\x{41}", r"\u12"),
        *("a\\", "[[:alpha:]]", "[a&&b]", "[a--b]", "[a~~b]", "[]a]", "[^]", "[a", r"[\S]", r"\pL"),
    ],
)
def test_patterns_that_are_read_in_two_ways_are_refused(pattern: str) -> None:
    schemas: list[Any] = [{"pattern": pattern}, {"patternProperties": {pattern: {}}}]
    for schema in schemas:
        with pytest.raises(InvalidRequest, match="/pattern"):
            held(schema)


def test_dates_are_those_of_the_calendar() -> None:
    date = re.compile(REWRITTEN["date"].regex)
    for year in range(10_000):
        expected = year > 0 and calendar.isleap(year)
        assert (date.fullmatch(f"{year:04}-02-29") is not None) == expected, year
    for month in range(14):
        for day in range(33):
            expected = 1 <= month <= 12 and 1 <= day <= calendar.monthrange(2023, month)[1]
            assert (date.fullmatch(f"2023-{month:02}-{day:02}") is not None) == expected


@pytest.mark.parametrize("seconds", ["00", "59", "60"])
def test_leap_seconds_are_never_written(seconds: str) -> None:
    for name, text in [
        ("time", f"08:30:{seconds}Z"),
        ("date-time", f"2023-01-01T08:30:{seconds}Z"),
    ]:
        matcher = compiled({"type": "string", "format": name})
        assert lets_through(matcher, f'"{text}"') == (seconds != "60")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("a", True),
        ("a-b.c1", True),
        ("a" * 63, True),
        ("a" * 64, False),
        (".".join(["a" * 49] * 5), True),
        (".".join(["a" * 50] * 5), False),  # 254 characters
        ("-a", False),
        ("a-", False),
        ("aa-", False),
        ("aa--a", False),
        ("xn--4gbwdl", False),
        ("a--a", True),
        ("aaa--a", True),
        ("aa--", False),
        ("aa-a", True),
        ("a..b", False),
    ],
)
def test_host_names(host: str, expected: bool) -> None:
    matcher = compiled({"type": "string", "format": "hostname"})
    assert lets_through(matcher, f'"{host}"') == expected


def test_a_format_holds_beside_a_pattern_and_a_length() -> None:
    matcher = compiled({"type": "string", "format": "date", "pattern": "-02-29$", "maxLength": 10})
    assert lets_through(matcher, '"2024-02-29"')
    assert not lets_through(matcher, '"2023-02-29"')
    assert not lets_through(matcher, '"2024-02-28"')


def test_no_name_is_spelled_by_escapes() -> None:
    matcher = compiled({"type": "object", "properties": {"a": {"type": "integer"}}})
    assert lets_through(matcher, '{"a":1,"b":"x"}')
    assert not lets_through(matcher, '{"\\u0061":"x"}')


def test_addresses_of_the_library_are_addresses() -> None:
    matcher = compiled({"type": "string", "format": "ipv6"})
    for text in ("::", "1::", "::1", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7::"):
        ipaddress.IPv6Address(text)
        assert lets_through(matcher, f'"{text}"')
    for text in (":::", "1:2:3:4:5:6:7", "1::2::3", "12345::"):
        assert not lets_through(matcher, f'"{text}"')
