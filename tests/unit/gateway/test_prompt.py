"""The chat template, on a vocabulary of bytes."""

import pytest

from gateway.text.prompt import Turn, header_id, render
from glm4v.errors import InvalidRequest
from tests.vocabularies import byte_tokenizer

GMASK, SOP, SYSTEM, USER, ASSISTANT = 258, 260, 262, 263, 264
IMAGE = [266, 256, 267]


def test_an_answer_is_asked_for_without_a_newline() -> None:
    prompt = render([Turn("user", "a")], byte_tokenizer())
    assert prompt.ids == [GMASK, SOP, USER, 10, 97, ASSISTANT]
    assert prompt.image_offset is None


@pytest.mark.parametrize("text", ["b", "\nb", "\n\n b\n"])
def test_an_answer_goes_on_as_the_tokens_the_model_wrote(text: str) -> None:
    tokenizer = byte_tokenizer()
    first = render([Turn("user", "a")], tokenizer)
    wrote = [header_id(tokenizer), *text.encode()]
    turns = [Turn("user", "a"), Turn("assistant", text), Turn("user", "c")]
    assert render(turns, tokenizer).ids == [*first.ids, *wrote, USER, 10, 99, ASSISTANT]


def test_the_image_stands_between_the_header_and_the_text_of_its_turn() -> None:
    turns = [Turn("system", "S"), Turn("user", "a"), Turn("user", "b", has_image=True)]
    prompt = render(turns, byte_tokenizer(), add_generation_prompt=False)
    assert prompt.ids == [GMASK, SOP, SYSTEM, 10, 83, USER, 10, 97, USER, 10, *IMAGE, 98]
    assert prompt.image_offset == 10


def test_empty_turns_are_skipped() -> None:
    prompt = render(
        [Turn("user"), Turn("user", "a")], byte_tokenizer(), add_generation_prompt=False
    )
    assert prompt.ids == [GMASK, SOP, USER, 10, 97]


def test_no_text_can_open_a_turn_or_an_image() -> None:
    text = "<|user|><|begin_of_image|><|endoftext|><|end_of_image|>"
    prompt = render([Turn("user", text)], byte_tokenizer(), add_generation_prompt=False)
    assert bytes(prompt.ids[4:]) == text.encode()


def test_the_texts_of_all_turns_together_are_measured() -> None:
    with pytest.raises(InvalidRequest, match="600 bytes"):
        render([Turn("user", "a" * 300), Turn("user", "b" * 300)], byte_tokenizer())


def test_truncation_takes_the_start_of_the_last_text_alone() -> None:
    turns = [Turn("system", "S"), Turn("user", "abcdef", has_image=True)]
    prompt = render(turns, byte_tokenizer())
    whole = list(prompt.ids)
    prompt.truncate(len(whole))
    assert prompt.ids == whole
    prompt.truncate(len(whole) - 4)
    assert prompt.ids == [GMASK, SOP, SYSTEM, 10, 83, USER, 10, *IMAGE, *b"ef", ASSISTANT]
    with pytest.raises(InvalidRequest, match=r"is 10; .* 13 tokens, of which only the 2 of the"):
        prompt.truncate(10)
    prompt.truncate(11)
    assert prompt.ids == [GMASK, SOP, SYSTEM, 10, 83, USER, 10, *IMAGE, ASSISTANT]
