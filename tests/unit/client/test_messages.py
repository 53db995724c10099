"""Conversation files become messages, and whatever is wrong in one is named with its place."""

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glm4v.client.conversation_file import read_messages
from glm4v.client.messages import assistant_message, attach_image, user_message
from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as pb

IMAGE = b"\x89PNG not looked into here"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photo 1.png").write_bytes(IMAGE)
    return tmp_path


def read(folder: Path, document: Any) -> list[pb.Message]:
    path = folder / "conversation.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return read_messages(path)


def with_part(**part: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [part]}]


def with_url(url: str) -> list[dict[str, Any]]:
    return with_part(type="image_url", image_url={"url": url})


def test_texts_and_roles_are_kept_in_order(folder: Path) -> None:
    messages = read(
        folder,
        [
            {"role": "system", "content": "简短回答"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
            {"role": "assistant", "content": "c"},
            {"role": "user", "content": "d"},
        ],
    )
    assert [message.role for message in messages] == [
        pb.ROLE_SYSTEM,
        pb.ROLE_USER,
        pb.ROLE_ASSISTANT,
        pb.ROLE_USER,
    ]
    texts = [[part.text for part in message.parts] for message in messages]
    assert texts == [["简短回答"], ["a", "b"], ["c"], ["d"]]


def test_an_image_is_read_beside_the_file(folder: Path) -> None:
    [message] = read(folder, with_url("photo 1.png"))
    assert message.parts[0].image.data == IMAGE


def test_an_image_is_read_from_the_current_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "conversations").mkdir()
    [message] = read(folder / "conversations", with_url("photo 1.png"))
    assert message.parts[0].image.data == IMAGE


@pytest.mark.parametrize(
    "url",
    [
        "{folder}/photo 1.png",
        "file://{folder}/photo%201.png",
        "FILE://localhost{folder}/photo%201.png",
        "file://{folder}/%70hoto 1.png",
        " data:image/png;base64," + base64.b64encode(IMAGE).decode() + "\n",
    ],
)
def test_each_form_of_a_local_image_works(folder: Path, url: str) -> None:
    [message] = read(folder, with_url(url.format(folder=folder)))
    assert message.parts[0].image.data == IMAGE


@pytest.mark.parametrize("url", ["file://{folder}/caf%E9.png", "caf\udce9.png"])
def test_the_name_of_an_image_may_be_any_bytes(folder: Path, url: str) -> None:
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(IMAGE)
    [message] = read(folder, with_url(url.format(folder=folder)))
    assert message.parts[0].image.data == IMAGE


def test_a_utf8_mark_at_the_start_of_a_file_does_no_harm(folder: Path) -> None:
    path = folder / "marked.json"
    path.write_text('[{"role": "user", "content": "d"}]', encoding="utf-8-sig")
    assert read_messages(path)[0].parts[0].text == "d"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"messages": []}, r"the document is {\"messages\": \[\]}; it must be a list of messages"),
        (["hello"], r"messages\[0\] is \"hello\"; it must be an object"),
        ([{"role": "user"}], r"messages\[0\] has no content"),
        ([{"role": "tool", "content": ""}], r"messages\[0\].role is \"tool\"; use one of system"),
        ([{"role": ["user"], "content": ""}], r"messages\[0\].role is \[\"user\"\]"),
        ([{"role": "user", "content": "", "name": "x"}], r"messages\[0\].name: unknown key"),
        ([{"role": "user", "content": None}], r"messages\[0\].content is null; it must be a text"),
        (with_part(type="video"), r"messages\[0\].content\[0\].type is \"video\""),
        (with_part(type="text"), r"messages\[0\].content\[0\] has no text"),
        (with_part(type="text", text=1), r"content\[0\].text is 1; it must be a text"),
        (with_part(type="text", text="\ud800x"), r"content\[0\].text: not Unicode text"),
        ([{"role": "user", "content": "\ud800"}], r"messages\[0\].*not Unicode text"),
        (with_part(type="text", text="", size=1), r"messages\[0\].content\[0\].size: unknown key"),
        (with_part(type="image_url", image_url="a.png"), r"image_url is \"a.png\"; it must be an"),
        (
            with_url("https://host/a.png"),
            r"image_url.url: images are not downloaded",
        ),
        (with_url("absent.png"), r"messages\[0\].content\[0\].image_url.url: absent.png: No such"),
        (with_url("a\0.png"), r"image_url.url: .*null byte"),
        (with_url("a" * 5000), r"image_url.url: .*too long"),
        (with_url("file://host/a.png"), r"names the host host"),
        (with_url("file://[host/a.png"), r"is not a file: URL"),
        (with_url("file:///a\ud800.png"), r"is not a file: URL"),
        (
            with_url("data:image/png;base64,a*c="),
            r"content\[0\].image_url.url: '\*' at character 1",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_place(folder: Path, document: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        read(folder, document)


def test_a_file_that_is_no_json_is_named_with_the_line(folder: Path) -> None:
    path = folder / "broken.json"
    path.write_text('[\n{"role" "user"}]', encoding="utf-8")
    with pytest.raises(InvalidRequest, match=r"broken.json is not a JSON file: .*line 2 column 9"):
        read_messages(path)


def test_a_missing_file_is_named(folder: Path) -> None:
    with pytest.raises(
        InvalidRequest, match=r"cannot read the conversation .*absent.json: No such"
    ):
        read_messages(folder / "absent.json")


def test_a_question_puts_the_image_before_the_text() -> None:
    message = user_message("这是什么？", IMAGE)
    assert [part.WhichOneof("content") for part in message.parts] == ["image", "text"]
    assert message.parts[0].image.data == IMAGE
    message = user_message("你好")
    assert [part.text for part in message.parts] == ["你好"]


@pytest.mark.parametrize("say", [user_message, assistant_message])
def test_a_text_that_is_not_unicode_is_refused(say: Callable[[str], object]) -> None:
    with pytest.raises(InvalidRequest, match="not Unicode text at character 1"):
        say(os.fsdecode(b"a\xff"))


def test_an_image_goes_into_the_first_user_message(folder: Path) -> None:
    messages = read(
        folder,
        [{"role": "system", "content": "s"}, *({"role": "user", "content": t} for t in "ab")],
    )
    attach_image(messages, IMAGE)
    assert [len(message.parts) for message in messages] == [1, 2, 1]
    assert messages[1].parts[0].image.data == IMAGE
    with pytest.raises(InvalidRequest, match=r"messages\[1\] already has an image"):
        attach_image(messages, IMAGE)


def test_a_conversation_without_a_user_takes_no_image(folder: Path) -> None:
    with pytest.raises(InvalidRequest, match="none of the 1 messages is from the user"):
        attach_image(read(folder, [{"role": "system", "content": "s"}]), IMAGE)
