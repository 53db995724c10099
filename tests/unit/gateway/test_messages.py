"""Which messages make a conversation."""

import pytest

from gateway.admission.messages import read_messages
from gateway.text.prompt import Turn
from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as api

IMAGE = api.Image(data=b"p")


def message(role: "api.Role.ValueType", *contents: str | api.Image) -> api.Message:
    parts = [
        api.ContentPart(text=c) if isinstance(c, str) else api.ContentPart(image=c)
        for c in contents
    ]
    return api.Message(role=role, parts=parts)


def user(*contents: str | api.Image) -> api.Message:
    return message(api.ROLE_USER, *contents)


def test_text_parts_are_joined_with_newlines_around_the_image() -> None:
    messages = [
        message(api.ROLE_SYSTEM, "s"),
        user("a", IMAGE, "b"),
        message(api.ROLE_ASSISTANT, "c"),
        user("d"),
    ]
    conversation = read_messages(messages)
    assert conversation.turns == [
        Turn("system", "s"),
        Turn("user", "a\nb", has_image=True),
        Turn("assistant", "c"),
        Turn("user", "d"),
    ]
    assert conversation.image == IMAGE


def test_messages_with_neither_text_nor_image_are_skipped() -> None:
    messages = [user(), message(api.ROLE_ASSISTANT, ""), user(IMAGE), user("")]
    assert read_messages(messages).turns == [Turn("user", has_image=True)]


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "messages is empty"),
        ([user(), user("")], "all 2 messages are empty"),
        (
            [user("a"), message(api.ROLE_ASSISTANT, "b")],
            "role assistant; it must be a user message",
        ),
        ([user("a"), message(api.ROLE_ASSISTANT, "b"), user("")], "role assistant"),
        ([message(api.ROLE_SYSTEM, "a")], "role system; it must be a user message"),
        ([user("a"), message(api.ROLE_UNSPECIFIED, "b")], r"messages\[1\].role is 0"),
        ([api.Message(role=9)], r"messages\[0\].role is 9"),  # type: ignore[arg-type]
        ([user("a"), message(api.ROLE_SYSTEM, "b"), user("c")], r"messages\[1\] is a system"),
        (
            [user("a", IMAGE), user(IMAGE)],
            r"messages\[1\].parts\[0\] is a second image after messages\[0\].parts\[1\]",
        ),
        ([user(IMAGE, IMAGE)], r"messages\[0\].parts\[1\] is a second image"),
        (
            [message(api.ROLE_ASSISTANT, "a", IMAGE), user("b")],
            r"messages\[0\].parts\[1\]: images are allowed in user messages only; .* assistant",
        ),
        ([user(api.Image())], r"messages\[0\].parts\[0\].image has no source"),
        (
            [api.Message(role=api.ROLE_USER, parts=[api.ContentPart(text="a"), api.ContentPart()])],
            r"messages\[0\].parts\[1\] has no content",
        ),
    ],
)
def test_other_messages_are_refused_by_name(messages: list[api.Message], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        read_messages(messages)
