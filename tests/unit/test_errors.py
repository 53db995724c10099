"""Errors come back as what they were: from a status name, and from an exit code."""

import pytest

from glm4v import errors
from glm4v.errors import Glm4vError, RequestFailed, by_code, by_exit_code

KINDS = [each for each in vars(errors).values() if isinstance(each, type)]
# A kind without a code of its own comes back as what it is a kind of.
OWN = [each for each in KINDS if issubclass(each, Glm4vError) and "code" in vars(each)]
SENT = [each for each in OWN if each is not Glm4vError]


@pytest.mark.parametrize("kind", SENT)
def test_every_error_that_is_sent_comes_back_by_its_code(kind: type[Glm4vError]) -> None:
    error = by_code(kind.code, "why")
    assert type(error) is kind
    assert str(error) == "why"


@pytest.mark.parametrize("code", ["INTERNAL", "UNKNOWN", ""])
def test_any_other_code_is_a_failed_request(code: str) -> None:
    assert type(by_code(code, "why")) is RequestFailed


def test_codes_are_used_once() -> None:
    assert len({kind.code for kind in SENT}) == len(SENT) == 10


@pytest.mark.parametrize(
    ("exit_code", "name"),
    [
        (0, "NoneType"),
        (1, "NoneType"),
        (2, "ConfigurationError"),
        (3, "InvalidRequest"),
        (4, "CheckpointError"),
        (5, "Unavailable"),
        (6, "Overloaded"),
        (7, "NoneType"),
        (-9, "NoneType"),
    ],
)
def test_a_failed_start_comes_back_by_its_exit_code(exit_code: int, name: str) -> None:
    assert type(by_exit_code(exit_code, "why")).__name__ == name
