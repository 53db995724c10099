"""Response formats that are refused before anything is compiled."""

import pytest

from gateway.admission.response_format import check_response_format
from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as api


def choice(*options: str) -> api.ResponseFormat:
    return api.ResponseFormat(choice=api.ChoiceFormat(options=options))


@pytest.mark.parametrize(
    "response_format",
    [
        api.ResponseFormat(json_schema="{}"),
        api.ResponseFormat(json_schema='{"const": "%s"}' % ("x" * (64 * 1024 - 13))),
        api.ResponseFormat(regex="a"),
        choice("a"),
        choice(*map(str, range(1000))),
    ],
)
def test_what_is_within_the_limits_passes(response_format: api.ResponseFormat) -> None:
    check_response_format(response_format)


@pytest.mark.parametrize(
    ("response_format", "said"),
    [
        (api.ResponseFormat(), "response_format is empty; set json_schema, regex or choice"),
        (api.ResponseFormat(regex=""), "regex has 0 bytes; 1 to 65536"),
        (api.ResponseFormat(regex="图" * 21846), "regex has 65538 bytes; 1 to 65536"),
        (api.ResponseFormat(json_schema="{"), "json_schema is not JSON: .*char 1"),
        (api.ResponseFormat(json_schema='{"maxlength": 3}'), "did you mean maxLength"),
        (choice(), "choice has 0 options; 1 to 1000"),
        (choice(*["a"] * 1001), "choice has 1001 options; 1 to 1000"),
        (choice("a", ""), r"options\[1\] is empty"),
        (choice("a" * 40_000, "b" * 40_000), "choice has 80000 bytes; at most 65536"),
    ],
)
def test_what_is_not_is_refused_with_the_numbers(
    response_format: api.ResponseFormat, said: str
) -> None:
    with pytest.raises(InvalidRequest, match=said) as refused:
        check_response_format(response_format)
    assert "\n" not in str(refused.value)
