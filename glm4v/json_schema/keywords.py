"""The words of JSON schema: draft 2020-12, and what of other dialects people write."""

from typing import Any

# They say something about a value, not what it may be.
ANNOTATIONS = frozenset(
    {
        *("$schema", "$comment", "$anchor", "title", "description", "default", "examples"),
        *("deprecated", "readOnly", "writeOnly"),
        *("contentMediaType", "contentEncoding", "contentSchema"),
        *("example", "discriminator", "externalDocs", "xml"),  # of OpenAPI
    }
)

# Not held to, with what to write instead.
REFUSED = dict.fromkeys(
    (
        *("not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems"),
        *("dependentRequired", "dependentSchemas", "dependencies", "propertyNames"),
        *("unevaluatedItems", "unevaluatedProperties", "$dynamicRef", "$dynamicAnchor"),
        *("$recursiveRef", "$recursiveAnchor", "$vocabulary", "extends", "disallow"),
    ),
    "remove it",
) | {
    "nullable": 'add "null" to the type, as in ["string", "null"]',
    "additionalItems": "write prefixItems and items",
    "divisibleBy": "write multipleOf",
    "propertyOrdering": "the order of properties is the order they are written in",
    "$id": "it is taken in the root only; write $ref as #/…",
    "id": "it is taken in the root only; write $ref as #/…",
}

_IDLE = {"uniqueItems": False, "nullable": False}

# Bases of references: in the root, references to "#" stay what they are.
ROOT_ONLY = frozenset({"$id", "id"})

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")


def is_idle(word: str, argument: Any) -> bool:
    """Whether a keyword asks for nothing; zod says of a record that its names are strings."""
    if word == "propertyNames" and isinstance(argument, dict):
        return all(
            key in ANNOTATIONS or (key, said) == ("type", "string")
            for key, said in argument.items()
        )
    return word in _IDLE and argument is _IDLE[word]
