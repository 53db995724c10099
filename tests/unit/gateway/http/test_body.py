"""What is said of a body that has not the form of its model."""

import pytest

from gateway.doors.http.body import parse_body
from gateway.doors.http.errors import InvalidField
from gateway.doors.http.openai.body import ChatBody


@pytest.mark.parametrize(
    ("content", "field", "message"),
    [
        (b"", "", "the body is not JSON: EOF while parsing a value at line 1 column 0"),
        (b"null", "", "the body should be an object"),
        (b"{}", "messages", "messages: field required"),
        (
            b'{"messages": [], "stop": 1}',
            "stop",
            "stop: input should be a valid string or a valid array",
        ),
        (b'{"messages": [], "stop": [1]}', "stop[0]", "stop[0]: input should be a valid string"),
        (
            b'{"messages": [{"role": "user", "content": 1}]}',
            "messages[0].content",
            "messages[0].content: input should be a valid string or a valid array",
        ),
        (
            b'{"messages": [], "guided_json": 1}',
            "guided_json",
            "guided_json: input should be an object or a valid string",
        ),
    ],
)
def test_an_error_names_the_field_and_all_that_it_may_be(
    content: bytes, field: str, message: str
) -> None:
    with pytest.raises(InvalidField) as error:
        parse_body(content, ChatBody)
    assert (error.value.field, str(error.value)) == (field, message)
