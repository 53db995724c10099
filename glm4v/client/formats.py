"""Response formats: the answer is valid JSON, matches an expression, or is one of several texts."""

import json
from collections.abc import Mapping
from typing import Any

from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as pb


def json_schema(schema: Mapping[str, Any] | str) -> pb.ResponseFormat:
    """Answers that are JSON and valid under a schema, given as an object or as its JSON.

    `{}` allows any JSON. Raises InvalidRequest if the object cannot be written as JSON.
    """
    if isinstance(schema, str):
        return pb.ResponseFormat(json_schema=schema)
    try:
        return pb.ResponseFormat(json_schema=json.dumps(schema, ensure_ascii=False))
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"response_format: the schema is not JSON: {error}") from None


def regex(expression: str) -> pb.ResponseFormat:
    """Answers that match an expression as a whole, in the syntax of Rust's regex crate."""
    return pb.ResponseFormat(regex=expression)


def choice(*options: str) -> pb.ResponseFormat:
    """Answers that are one of the options."""
    return pb.ResponseFormat(choice=pb.ChoiceFormat(options=options))
