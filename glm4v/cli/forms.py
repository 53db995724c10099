"""The response format, from the options of the command."""

from pathlib import Path

import typer

from glm4v.client import formats
from glm4v.client.conversation_file import read_file
from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as pb


def response_format(
    json_schema: Path | None, regex: str | None, choice: list[str] | None
) -> pb.ResponseFormat | None:
    """The format; None if no option is set. At most one option may be set."""
    if (json_schema is not None) + (regex is not None) + bool(choice) > 1:
        raise typer.BadParameter("use only one of --json-schema, --regex and --choice")
    if json_schema is not None:
        try:
            return formats.json_schema(read_file(json_schema, "schema").decode())
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"the schema {json_schema} is not UTF-8: {error}") from None
    if regex is not None:
        return formats.regex(regex)
    return formats.choice(*choice) if choice else None
