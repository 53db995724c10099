"""The form of an answer, from the options of the command."""

from pathlib import Path

import pytest
import typer

from glm4v.cli.forms import response_format
from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as pb


def test_each_option_is_a_form(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"const": "图"}', encoding="utf-8")
    assert response_format(None, None, None) is None
    assert response_format(None, None, []) is None
    assert response_format(schema, None, None) == pb.ResponseFormat(json_schema='{"const": "图"}')
    assert response_format(None, "a+", None) == pb.ResponseFormat(regex="a+")
    choice = pb.ChoiceFormat(options=["a", "b"])
    assert response_format(None, None, ["a", "b"]) == pb.ResponseFormat(choice=choice)


def test_two_forms_at_once_are_a_wrong_usage() -> None:
    with pytest.raises(typer.BadParameter, match="one of --json-schema, --regex and --choice"):
        response_format(None, "a", ["b"])


def test_a_schema_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"cannot read the schema .*missing\.json"):
        response_format(tmp_path / "missing.json", None, None)
    latin = tmp_path / "latin.json"
    latin.write_bytes(b'{"const": "\xe9"}')
    with pytest.raises(InvalidRequest, match=r"schema .*latin\.json is not UTF-8"):
        response_format(latin, None, None)
