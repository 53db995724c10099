"""The content list that all formats share."""

import base64
from typing import Any

import pytest

from gateway.doors.http.content import read_content
from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as api

JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256))
BASE64 = base64.b64encode(JPEG).decode()
DATA_URL = f"data:image/jpeg;base64,{BASE64}"


def test_text_is_one_part_and_null_is_none() -> None:
    assert read_content("hello", "c") == [api.ContentPart(text="hello")]
    assert read_content(None, "c") == []


@pytest.mark.parametrize(
    "image",
    [
        DATA_URL,
        BASE64,
        {"url": DATA_URL},
        {"url": BASE64, "detail": "original"},
        {"url": DATA_URL, "detail": "auto", "prompt_cache_breakpoint": True},
    ],
)
def test_an_image_comes_as_a_string_or_an_object(image: Any) -> None:
    parts = [{"type": "image_url", "image_url": image}, {"type": "text", "text": "what"}]
    assert read_content(parts, "c") == [
        api.ContentPart(image=api.Image(data=JPEG)),
        api.ContentPart(text="what"),
    ]


def test_an_image_that_was_sent_before_is_named_by_its_digest() -> None:
    parts = [{"type": "image_url", "image_url": {"url": f"sha256:{'a' * 64}"}}]
    assert read_content(parts, "c") == [api.ContentPart(image=api.Image(digest="a" * 64))]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("http://127.0.0.1/a.jpg", "URLs are not fetched"),
        ({"url": "https://example.com/a.jpg"}, "URLs are not fetched"),
        ("ftp://example.com/a.jpg", "URLs are not fetched"),
        ("file:///data/multimodal_inputs/a.jpg", "files are not read"),
        ("/data/multimodal_inputs/an-image-of-a-cat-on-a-mat.jpg", "files are not read"),
        ("a.jpg", "files are not read"),
    ],
)
def test_nothing_is_fetched_and_the_error_says_what_to_send(image: Any, reason: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_content([{"type": "image_url", "image_url": image}], "messages[0].content")
    assert str(refused.value).startswith("messages[0].content[0].image_url")
    assert reason in str(refused.value)
    assert "data:image/jpeg;base64,DATA" in str(refused.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (5, "c is a number; send a text or a list of parts"),
        ([5], "c[0] is a number; send an object with a type"),
        ([{"type": "text"}], "c[0].text is missing; send a text"),
        ([{"type": "text", "text": "\ud800"}], "c[0].text is not Unicode text"),
        ([{"type": "image_url"}], "c[0].image_url is missing"),
        ([{"type": "image_url", "image_url": {"url": ""}}], "c[0].image_url.url is an empty text"),
        ([{"type": "video_url", "video_url": "x"}], "c[0].type is 'video_url'"),
        ([{"image_url": "x"}], "c[0].type is None"),
        ([{"type": "image_url", "image_url": "data:image/png;base64,!!!!"}], "is not base64"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(content: Any, reason: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_content(content, "c")
    assert reason in str(refused.value)
