"""Tokenizer and chat template against those of the original implementation, real vocabulary."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from gateway.text.prompt import Turn, render
from gateway.text.tokenizer import Tokenizer
from glm4v.checkpoint.vocabulary import SPECIAL_TOKENS
from tests.reference import REFERENCE
from tests.vocabularies import small_spec

pytestmark = pytest.mark.needs_reference

ORDINARY = 151_329
CASES = (
    "single",
    "image",
    "image_no_text",
    "system",
    "multi_image_first",
    "multi_image_last",
    "metadata_assistant",
    "injection",
    "tools_field",
)


@pytest.fixture(scope="module")
def golden() -> Any:
    return json.loads((REFERENCE / "golden-tokenizer.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    spec = replace(small_spec(), first_special_id=ORDINARY, context_tokens=8192)
    return Tokenizer.read(REFERENCE, spec)


def turn(message: Mapping[str, Any]) -> Turn:
    return Turn(
        message["role"],
        message["content"],
        has_image="image" in message,
        metadata=message.get("metadata", ""),
        tools=message.get("tools", ()),
    )


def spell(ids: list[int], tokenizer: Tokenizer) -> str:
    """The prompt as text; the original spells it without the image's placeholder."""
    pieces = [
        SPECIAL_TOKENS[i - ORDINARY].encode() if i >= ORDINARY else tokenizer.token_bytes(i)
        for i in ids
    ]
    return b"".join(pieces).decode()


def test_texts_are_encoded_as_by_the_original(golden: Any, tokenizer: Tokenizer) -> None:
    for text, ids in golden["encode"]:
        assert tokenizer.encode(text) == ids, text
        assert b"".join(map(tokenizer.token_bytes, ids)).decode() == text


def test_special_tokens_have_the_original_ids(golden: Any, tokenizer: Tokenizer) -> None:
    assert {name: tokenizer.special_id(name) for name in SPECIAL_TOKENS} == golden["specials"]


def test_every_case_of_the_original_is_tested(golden: Any) -> None:
    assert set(golden["chat"]) == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_conversations_become_the_original_prompt(
    golden: Any, tokenizer: Tokenizer, case: str
) -> None:
    expected = golden["chat"][case]
    turns = [turn(message) for message in expected["messages"]]
    prompt = render(turns, tokenizer)
    assert prompt.ids == expected["ids_with_generation_prompt"]
    assert render(turns, tokenizer, add_generation_prompt=False).ids == expected["ids_without"]
    spelt_ids = list(prompt.ids)
    if any("image" in message for message in expected["messages"]):
        assert prompt.image_offset is not None
        placeholder = slice(prompt.image_offset, prompt.image_offset + 3)
        assert spelt_ids[placeholder] == [ORDINARY + 10, ORDINARY, ORDINARY + 11]
        del spelt_ids[placeholder]
    assert spell(spelt_ids, tokenizer) == expected["rendered"]
