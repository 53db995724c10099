"""Schemas that pydantic makes: which types are held to (docs/compatibility.md has the table)."""

import datetime as dt
import decimal
import enum
import ipaddress
import pathlib
import re
import uuid
from typing import Annotated, Any, Literal, Optional, Union

import pytest
from pydantic import (
    UUID4,
    AnyUrl,
    AwareDatetime,
    Base64Bytes,
    BaseModel,
    ByteSize,
    Field,
    FilePath,
    IPvAnyAddress,
    Json,
    PositiveFloat,
    SecretStr,
    TypeAdapter,
)

from glm4v.errors import InvalidRequest
from tests.schema_judge import compiled, is_valid, written_answer


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Circle(BaseModel):
    """A shape."""

    kind: Literal["circle"]
    radius: PositiveFloat


class Square(BaseModel):
    kind: Literal["square"]
    side: Annotated[int, Field(gt=0, lt=100, title="Side", examples=[3])] = 1


class Drawing(BaseModel):
    shape: Annotated[Circle | Square, Field(discriminator="kind")]
    colour: Colour | None = None


class Tree(BaseModel):
    value: int
    children: list["Tree"] = []


HELD: dict[str, Any] = {
    "model": Square,
    "discriminated union": Drawing,
    "recursive model": Tree,
    "Optional": Optional[Square],  # noqa: UP045
    "Union": Union[int, str],  # noqa: UP007
    "Enum": Colour,
    "Literal": Literal["a", 1],
    "Decimal": decimal.Decimal,
    "tuple": tuple[int, str],
    "list": Annotated[list[bool], Field(min_length=1, max_length=3)],
    "dict": dict[str, int],
    "datetime": dt.datetime,
    "AwareDatetime": AwareDatetime,
    "date": dt.date,
    "time": dt.time,
    "timedelta": dt.timedelta,
    "UUID": uuid.UUID,
    "AnyUrl": AnyUrl,
    "IPv4Address": ipaddress.IPv4Address,
    "IPv6Address": ipaddress.IPv6Address,
    "multiple_of": Annotated[int, Field(multiple_of=5)],
    "ge, le": Annotated[float, Field(ge=0, le=1)],
    "pattern": Annotated[str, Field(pattern="^[a-z]{1,8}$")],
    "Json": Json,
    "ByteSize": ByteSize,
}
REFUSED: dict[str, tuple[Any, str]] = {
    "set": (set[int], "uniqueItems"),
    "frozenset": (frozenset[int], "uniqueItems"),
    "bytes": (bytes, "binary"),
    "Base64Bytes": (Base64Bytes, "base64"),
    "Path": (pathlib.Path, '"path"'),
    "FilePath": (FilePath, "file-path"),
    "SecretStr": (SecretStr, "password"),
    "Pattern": (re.Pattern, "regex"),
    "UUID4": (UUID4, "uuid4"),
    "IPvAnyAddress": (IPvAnyAddress, "ipvanyaddress"),
    "IPv4Network": (ipaddress.IPv4Network, "ipv4network"),
    "dict of Literal": (dict[Literal["a"], int], "propertyNames"),
    "64 bits": (Annotated[int, Field(ge=-(2**63), lt=2**63)], "beyond"),
}


@pytest.mark.parametrize("name", HELD)
def test_answers_for_a_type_are_valid_for_its_schema(name: str) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(HELD[name])
    schema = adapter.json_schema()
    matcher = compiled(schema)
    answers = {written_answer(matcher, seed) for seed in range(20)} - {None}
    assert answers
    for answer in answers:
        assert answer is not None
        assert is_valid(schema, answer), answer


@pytest.mark.parametrize("name", REFUSED)
def test_types_that_are_not_held_to_are_refused(name: str) -> None:
    kind, said = REFUSED[name]
    with pytest.raises(InvalidRequest, match=said):
        compiled(TypeAdapter(kind).json_schema())
