"""How much of a caption is read, and captions in parts, by open_clip's own tokenizer."""

from types import ModuleType

import pytest
import torch

from precision.judge.window import Tokenize, fits, judged_characters, parts

CHINESE = "图片中有一只橘黄色的小猫坐在窗台上，窗外是绿色的树和蓝色的天空，阳光照在它的身上。"
LONG = CHINESE + "它的旁边放着一本打开的书和一杯热茶，看起来十分安静。" + "背景里还有一个书架。" * 4


@pytest.fixture(scope="module")
def tokenize(open_clip: ModuleType) -> Tokenize:
    tokenizer = open_clip.get_tokenizer("ViT-H-14")

    def tokenize(text: str) -> torch.Tensor:
        ids: torch.Tensor = tokenizer([text])[0]
        return ids

    return tokenize


def test_about_thirty_chinese_characters_are_read(tokenize: Tokenize) -> None:
    judged = judged_characters(tokenize, LONG)
    assert 25 <= judged <= 40
    same = LONG[:judged] + "这里写的完全是另一件事" * 3
    assert bool((tokenize(same) == tokenize(LONG)).all())
    other = LONG[: judged - 2] + "这里写的完全是另一件事" * 3
    assert not bool((tokenize(other) == tokenize(LONG)).all())


@pytest.mark.parametrize("words", [1, 74, 75, 76, 300])
def test_of_english_words_75_are_read(tokenize: Tokenize, words: int) -> None:
    caption = " ".join(["cat"] * words)
    judged = judged_characters(tokenize, caption)
    assert judged == len(" ".join(["cat"] * min(words, 75)))
    assert fits(tokenize, caption) == (words < 75)


@pytest.mark.parametrize("caption", ["", " ", "a cat ", "a cat\n", "猫"])
def test_a_short_caption_is_read_whole(tokenize: Tokenize, caption: str) -> None:
    assert judged_characters(tokenize, caption) == len(caption)


def test_parts_hold_all_of_a_caption_and_are_read_whole(tokenize: Tokenize) -> None:
    pieces = parts(tokenize, LONG)
    assert "".join(pieces) == LONG
    assert all(fits(tokenize, piece) for piece in pieces)
    assert len(pieces) > 3
    assert pieces[-1].endswith("书架。")


def test_parts_end_where_sentences_do(tokenize: Tokenize) -> None:
    sentences = [f"In image {number}.5 there is a cat on the roof." for number in range(12)]
    pieces = parts(tokenize, " ".join(sentences))
    assert " ".join(pieces) == " ".join(sentences)
    assert 1 < len(pieces) < 6  # as few as fit
    assert all(piece.endswith("roof.") for piece in pieces)


@pytest.mark.parametrize("caption", ["", " ", "a cat", "a cat. a dog."])
def test_what_fits_is_one_part(tokenize: Tokenize, caption: str) -> None:
    assert parts(tokenize, caption) == [caption.strip() or caption]


def test_a_text_without_any_end_is_cut_where_it_must_be(tokenize: Tokenize) -> None:
    pieces = parts(tokenize, "猫" * 300)
    assert "".join(pieces) == "猫" * 300
    assert all(fits(tokenize, piece) for piece in pieces)
