"""Checks of response formats. Language workers compile them."""

from glm4v.errors import InvalidRequest
from glm4v.json_schema import held_schema
from glm4v.v1 import inference_pb2 as api

MAX_FORMAT_BYTES = 64 * 1024
MAX_OPTIONS = 1000


def check_response_format(response_format: api.ResponseFormat) -> None:
    """Refuse an empty or large response format, and a JSON schema that cannot be enforced."""
    kind = response_format.WhichOneof("format")
    if kind is None:
        raise InvalidRequest(
            "response_format is empty; set json_schema, regex or choice, or leave it out"
        )
    if kind == "choice":
        _check_options(response_format.choice)
        return
    text: str = getattr(response_format, kind)
    size = len(text.encode())
    if not 1 <= size <= MAX_FORMAT_BYTES:
        raise InvalidRequest(
            f"response_format.{kind} has {size} bytes; 1 to {MAX_FORMAT_BYTES} are allowed"
        )
    if kind == "json_schema":
        held_schema(text)


def _check_options(choice: api.ChoiceFormat) -> None:
    count = len(choice.options)
    if not 1 <= count <= MAX_OPTIONS:
        raise InvalidRequest(
            f"response_format.choice has {count} options; 1 to {MAX_OPTIONS} are allowed"
        )
    for number, option in enumerate(choice.options):
        if not option:
            raise InvalidRequest(f"response_format.choice.options[{number}] is empty; remove it")
    size = sum(len(option.encode()) for option in choice.options)
    if size > MAX_FORMAT_BYTES:
        raise InvalidRequest(
            f"response_format.choice has {size} bytes; at most {MAX_FORMAT_BYTES} are allowed"
        )
