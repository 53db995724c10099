"""Walks a schema by its vocabulary: what is data, what are names, what is a schema again."""

import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from glm4v.json_schema import formats, numbers, references
from glm4v.json_schema.keywords import ANNOTATIONS, REFUSED, ROOT_ONLY, TYPES, is_idle
from glm4v.json_schema.pattern import held_pattern
from glm4v.json_schema.reading import read_schema
from glm4v.json_schema.refusal import Place, meant, refusal, shown

_MOST_NESTED = 100  # the library's reader takes 128
_COMBINING = frozenset({"anyOf", "oneOf", "$ref"})
_DEFINING = frozenset({"$defs", "definitions"})
_APPLIED_LAST = ("enum", "const", "allOf", "anyOf", "oneOf", "$ref")
_ANY_TYPE = [name for name in TYPES if name != "integer"]
_SHORT_ESCAPES = frozenset("\n\r\t\b\f")
_Bound = tuple[Place, Decimal]


def held_schema(text: str) -> str:
    """The schema in `text` in the words that the grammar library holds to exactly.

    Annotations are left out. Raises InvalidRequest, which says where and what to write instead.
    """
    walk = _Walk()
    held = walk.schema(read_schema(text), ())
    walk.check_whole()
    written = json.dumps(held, separators=(",", ":"), ensure_ascii=False)
    try:
        written.encode()
    except UnicodeEncodeError as error:
        half = ord(written[error.start])
        raise refusal((), f"U+{half:04X} is half a character; leave it out") from None
    return written


class _Walk:
    """One reading of a schema; what can only be judged over all of it is kept for the end."""

    def __init__(self) -> None:
        self._places: set[Place] = set()  # of schemas
        self._references: list[tuple[Place, str]] = []
        self._lower: list[_Bound] = []
        self._upper: list[_Bound] = []
        self._multiples: dict[Place, Decimal] = {}
        self._combines = False  # whether one value is ruled by several schemas

    def schema(self, value: Any, place: Place) -> Any:
        """A schema at any place, held."""
        self._places.add(place)
        if isinstance(value, bool):
            return value
        if not isinstance(value, dict):
            raise refusal(place, f"{shown(value)} is no schema; write an object, true or false")
        if len(place) > _MOST_NESTED:
            raise refusal(place, f"nested more than {_MOST_NESTED} deep; use $defs and $ref")
        held = {}
        for word, argument in value.items():
            if not _says_nothing(word, argument, place):
                held[word] = _HELD[word](self, argument, (*place, word))
        self._note(held, value, place)
        formats.write(held, place)
        if "const" in held and _as_text(held["const"]) in map(_as_text, held.get("enum", ())):
            del held["enum"]  # beside it the library tells no alternatives of oneOf apart
        if "anyOf" not in held and _have_own_values(held.get("oneOf", ())):
            held["anyOf"] = held.pop("oneOf")  # no value fits two
        # The library reads what comes before one of these on its own, and then combines the two.
        last = {word: held.pop(word) for word in _APPLIED_LAST if word in held}
        return {**held, **last}

    def check_whole(self) -> None:
        """Refuse what cannot be seen in one place."""
        references.check(self._references, self._places)
        if self._combines:
            numbers.check_open_ends(self._lower, self._upper)
            numbers.check_common_multiple(self._multiples)

    def _note(self, held: dict[str, Any], value: dict[str, Any], place: Place) -> None:
        """Remember what may meet other schemas, and judge what meets here."""
        words = held.keys() - _DEFINING
        if "allOf" in words or (words & _COMBINING and len(words) > 1):
            self._combines = True
        lower = _bounds(value, place, ("minimum", "exclusiveMinimum"))
        upper = _bounds(value, place, ("maximum", "exclusiveMaximum"))
        if value.get("type") != "integer":
            numbers.check_open_ends(lower, upper)
        self._lower += lower
        self._upper += upper
        if "multipleOf" in held:
            at = (*place, "multipleOf")
            self._multiples[at] = value["multipleOf"]
        _check_property_count(held, place)

    # One for each kind of argument.

    def map_of_schemas(self, value: Any, place: Place) -> Any:
        if not isinstance(value, dict):
            raise refusal(place, f"{shown(value)} is no object of names and schemas")
        return {name: self.schema(inner, (*place, name)) for name, inner in value.items()}

    def patterns(self, value: Any, place: Place) -> Any:
        held = {}
        for name, inner in self.map_of_schemas(value, place).items():
            written = held_pattern(name, (*place, name))
            if written in held:
                raise refusal((*place, name), "this pattern stands twice; write it once")
            held[written] = inner
        return held

    def list_of_schemas(self, value: Any, place: Place) -> Any:
        if not isinstance(value, list) or not value:
            raise refusal(place, f"{shown(value)} is no list of schemas, or is empty")
        return [self.schema(inner, (*place, str(at))) for at, inner in enumerate(value)]

    def alternatives(self, value: Any, place: Place) -> Any:
        """Those of oneOf. The library sees that two differ only where it has to follow them."""
        return [
            {"type": _ANY_TYPE, **option}
            if isinstance(option, dict) and option.keys() == {"$ref"}
            else option
            for option in self.list_of_schemas(value, place)
        ]

    def items(self, value: Any, place: Place) -> Any:
        if isinstance(value, list):
            raise refusal(place, "a list is of an older draft; write prefixItems")
        return self.schema(value, place)

    def reference(self, value: Any, place: Place) -> Any:
        self._references.append((place, _text(value, place)))
        return references.as_uri(value)

    def types(self, value: Any, place: Place) -> Any:
        names = value if isinstance(value, list) else [value]
        if not names:
            raise refusal(place, "the list is empty")
        for name in names:
            if name not in TYPES:
                word = name if isinstance(name, str) else ""
                raise refusal(place, f"{shown(name)} is no type{meant(word, TYPES)}")
        return value

    def data(self, value: Any, place: Place) -> Any:
        """A value that an answer may have to be."""
        if len(place) > _MOST_NESTED:
            raise refusal(place, f"nested more than {_MOST_NESTED} deep")
        if isinstance(value, Decimal):
            return numbers.exact(value, place)
        if isinstance(value, str):
            return _writable(value, place)
        if isinstance(value, list):
            return [self.data(inner, (*place, str(at))) for at, inner in enumerate(value)]
        if isinstance(value, dict):
            return {
                _writable(key, place): self.data(inner, (*place, key))
                for key, inner in value.items()
            }
        return value

    def values(self, value: Any, place: Place) -> Any:
        if not isinstance(value, list) or not value:
            raise refusal(place, f"{shown(value)} is no list of values, or is empty")
        return self.data(value, place)

    def names(self, value: Any, place: Place) -> Any:
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise refusal(place, f"{shown(value)} is no list of names; it stands beside properties")
        return value

    def bound(self, value: Any, place: Place) -> Any:
        if isinstance(value, bool) and place[-1].startswith("exclusive"):
            raise refusal(place, "true and false are of draft 4; write the bound itself")
        return numbers.exact(_number(value, place), place)

    def multiple(self, value: Any, place: Place) -> Any:
        return numbers.multiple(_number(value, place), place)

    def count(self, value: Any, place: Place) -> Any:
        number = numbers.exact(_number(value, place), place)
        if number < 0 or not isinstance(number, int):
            raise refusal(place, f"{shown(value)} is no whole number from 0 on")
        return number

    def pattern(self, value: Any, place: Place) -> Any:
        return held_pattern(_text(value, place), place)

    def text(self, value: Any, place: Place) -> Any:
        return _text(value, place)


_HELD: dict[str, Callable[[_Walk, Any, Place], Any]] = {
    "type": _Walk.types,
    "const": _Walk.data,
    "enum": _Walk.values,
    "$ref": _Walk.reference,
    "oneOf": _Walk.alternatives,
    **dict.fromkeys(("anyOf", "allOf", "prefixItems"), _Walk.list_of_schemas),
    **dict.fromkeys(("$defs", "definitions", "properties"), _Walk.map_of_schemas),
    "patternProperties": _Walk.patterns,
    "additionalProperties": _Walk.schema,
    "items": _Walk.items,
    "required": _Walk.names,
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _Walk.bound),
    "multipleOf": _Walk.multiple,
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), _Walk.count),
    **dict.fromkeys(("minProperties", "maxProperties"), _Walk.count),
    "pattern": _Walk.pattern,
    "format": _Walk.text,  # what it says depends on the type beside it
}


def _says_nothing(word: str, argument: Any, place: Place) -> bool:
    """Whether a keyword can be left out. Raises InvalidRequest for one that is not held to."""
    if word in _HELD:
        return False
    if word in ANNOTATIONS or word.startswith("x-") or (word in ROOT_ONLY and not place):
        return True
    if is_idle(word, argument):
        return True
    if word in REFUSED:
        raise refusal((*place, word), f"this keyword is not held to; {REFUSED[word]}")
    close = meant(word, (*_HELD, *ANNOTATIONS))
    raise refusal(
        (*place, word),
        f"no keyword of JSON schema{close or '; remove it, or let its name begin with x-'}",
    )


def _have_own_values(options: Sequence[Any]) -> bool:
    """Whether each alternative says its values, and none is another's: the library sees texts."""
    if not options or not all(_says_values(option) for option in options):
        return False
    values = [
        {_as_text(value) for value in option.get("enum") or [option["const"]]} for option in options
    ]
    return len(set().union(*values)) == sum(map(len, values))


def _as_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _says_values(option: Any) -> bool:
    return isinstance(option, dict) and ("const" in option) != ("enum" in option)


def _check_property_count(held: dict[str, Any], place: Place) -> None:
    """A name that is not declared may stand twice, and counts twice: one of them can be counted."""
    most = len(set(held.get("required", ()))) + 1
    if held.get("minProperties", 0) > most:
        raise refusal(
            (*place, "minProperties"),
            f"at most {most} is held to here, one above the number of required properties",
        )


def _bounds(value: dict[str, Any], place: Place, words: tuple[str, str]) -> list[_Bound]:
    return [((*place, word), value[word]) for word in words if word in value]


def _number(value: Any, place: Place) -> Decimal:
    if not isinstance(value, Decimal):
        raise refusal(place, f"{shown(value)} is no number")
    return value


def _text(value: Any, place: Place) -> str:
    if not isinstance(value, str):
        raise refusal(place, f"{shown(value)} is no string")
    return value


def _writable(text: str, place: Place) -> str:
    """Strings of answers have no \\u escapes, so that no name can be spelled in two ways."""
    for char in text:
        if (
            (char < " " and char not in _SHORT_ESCAPES)
            or char == "\x7f"
            or 0xD800 <= ord(char) < 0xE000
        ):
            raise refusal(place, f"the character U+{ord(char):04X} cannot be written; leave it out")
    return text
