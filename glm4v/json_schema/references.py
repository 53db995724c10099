"""References of a schema: inside of the document, as URIs, and never in circles."""

from collections.abc import Collection, Iterable, Mapping
from urllib.parse import quote, unquote

from glm4v.json_schema.refusal import Place, refusal, shown

_IN_FRAGMENT = "/?:@!$&'()*+,;=~"  # and letters, digits, "-._" (RFC 3986, section 3.5)


def as_uri(reference: str) -> str:
    """With escapes: the library takes nothing but a URI, and `#/$defs/List[int]` is none."""
    document, mark, place = reference.partition("#")
    return document + mark + quote(unquote(place), safe=_IN_FRAGMENT, errors="surrogatepass")


def check(references: Iterable[tuple[Place, str]], schemas: Collection[Place]) -> None:
    """Refuse references, by the places they stand at, that lead to no schema or back to them."""
    leads_to: dict[Place, Place] = {}
    for place, reference in references:
        target = _target(reference)
        if target is None or target not in schemas:
            raise refusal(
                place,
                f"{shown(reference)} is no schema of this document; "
                "write a reference such as #/$defs/name",
            )
        leads_to[place[:-1]] = target
    _check_circles(leads_to)


def _target(reference: str) -> Place | None:
    """The place that a reference names; None outside the document."""
    path = unquote(reference)
    if path == "#":
        return ()
    if not path.startswith("#/"):
        return None
    parts = path.removeprefix("#/").split("/")
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in parts)


def _check_circles(leads_to: Mapping[Place, Place]) -> None:
    """Every place is gone over once."""
    seen: set[Place] = set()
    for start in leads_to:
        way: set[Place] = set()
        place = start
        while place in leads_to and place not in seen:
            seen.add(place)
            way.add(place)
            place = leads_to[place]
        if place in way:
            raise refusal((*place, "$ref"), "it leads back to itself with no value in between")
