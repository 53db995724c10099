"""Reading tokenizer.model, and texts that must not reach the encoder."""

import base64
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.text.tokenizer import Tokenizer
from glm4v.checkpoint.vocabulary import SPECIAL_TOKENS
from glm4v.errors import CheckpointError, InvalidRequest
from tests.vocabularies import byte_tokenizer, small_spec


def line(token: bytes, rank: int | str) -> bytes:
    return base64.b64encode(token) + f" {rank}".encode()


def byte_lines() -> list[bytes]:
    return [line(bytes([value]), value) for value in range(256)]


def read(folder: Path, lines: list[bytes]) -> Tokenizer:
    (folder / "tokenizer.model").write_bytes(b"\n".join(lines) + b"\n")
    return Tokenizer.read(folder, small_spec())


def test_a_byte_vocabulary_encodes_any_text_to_its_bytes(tmp_path: Path) -> None:
    tokenizer = read(tmp_path, byte_lines())
    text = "猫🐱 and\x00 \U0010ffff"
    ids = tokenizer.encode(text)
    assert bytes(ids) == text.encode()
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


def test_a_checkout_that_turned_the_line_ends_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"\r\n".join(byte_lines()) + b"\r\n")
    assert Tokenizer.read(tmp_path, small_spec()).encode("a\r\n") == [97, 13, 10]


def test_a_missing_vocabulary_says_where_to_copy_it_from(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: .* copy it from THUDM") as alone:
        Tokenizer.read(tmp_path, small_spec())
    assert "tokenizer.json" not in str(alone.value)
    (tmp_path / "tokenizer.json").write_text("{}")  # all that transformers 5 saves
    with pytest.raises(CheckpointError, match=r"\(tokenizer\.json does not take its place\)"):
        Tokenizer.read(tmp_path, small_spec())


def test_a_vocabulary_that_is_a_git_lfs_pointer_says_so(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"
    (tmp_path / "tokenizer.model").write_bytes(pointer)
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: a Git LFS pointer"):
        Tokenizer.read(tmp_path, small_spec())


def test_special_tokens_follow_the_ordinary_ones_in_their_fixed_order() -> None:
    ids = [byte_tokenizer().special_id(name) for name in SPECIAL_TOKENS]
    assert ids == list(range(256, 270))
    assert byte_tokenizer().special_id("<|begin_of_image|>") == small_spec().boi_id
    assert byte_tokenizer().special_id("<|end_of_image|>") == small_spec().eoi_id


def test_special_spellings_in_a_text_are_ordinary_bytes() -> None:
    for name in SPECIAL_TOKENS:
        assert bytes(byte_tokenizer().encode(name)) == name.encode()


def test_special_and_padding_ids_add_nothing_to_an_answer() -> None:
    assert [byte_tokenizer().token_bytes(i) for i in (256, 269, 270, 319)] == [b""] * 4


@pytest.mark.parametrize(
    ("eighth", "said"),
    [
        (b"not base64 7", "line 8: .*base64"),
        (b"====== 7", "line 8: .*base64"),
        (line(b"\x07", "x"), "line 8: .*base64"),
        (b"", "line 8: .*base64"),
        (line(b"\x07", 6), "line 8: rank 6 is taken"),
        (line(b"\x07", 256), "line 8: rank 256 .* 256"),
        (line(b"\x06", 7), "line 8: .*twice"),
        (line(b"", 7), "line 8: .*empty"),
        (line(b"ab", 7), "single byte 7"),
    ],
)
def test_a_damaged_line_is_refused_by_its_number(tmp_path: Path, eighth: bytes, said: str) -> None:
    lines = byte_lines()
    lines[7] = eighth
    with pytest.raises(CheckpointError, match=rf"tokenizer\.model: .*{said}"):
        read(tmp_path, lines)


def test_a_vocabulary_of_another_size_than_the_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"255 tokens; config\.json asks for 256"):
        read(tmp_path, byte_lines()[:-1])


def test_each_token_has_a_spelling_of_its_own_but_padding() -> None:
    tokenizer = byte_tokenizer()
    assert [tokenizer.spelling(token_id) for token_id in (97, 255, 256, 264, 319)] == [
        b"a",
        b"\xff",
        b"<|endoftext|>",
        b"<|assistant|>",
        b"",
    ]
    assert [tokenizer.is_special(token_id) for token_id in (255, 256, 319)] == [False, True, True]


def test_text_that_cannot_fit_the_context_is_refused_before_it_is_encoded() -> None:
    tokenizer = byte_tokenizer()  # one byte a token, 512 tokens
    tokenizer.refuse_overlong(["a" * 256, "é" * 128])
    with pytest.raises(InvalidRequest, match=r"513 bytes .* 512 tokens"):
        tokenizer.refuse_overlong(["a" * 257, "é" * 128])


def test_a_run_of_white_space_that_would_overflow_the_pattern_matcher_is_refused() -> None:
    tokenizer = Tokenizer(
        {bytes([value]): value for value in range(256)},
        replace(small_spec(), context_tokens=10_000_000),
    )
    longest = [" " * 200_000 + "x"] * 3
    tokenizer.refuse_overlong(longest)
    assert len(tokenizer.encode("".join(longest))) == 600_003
    with pytest.raises(InvalidRequest, match=r"200001 consecutive white-space"):
        tokenizer.refuse_overlong(["x" + "\u3000" * 200_001])
