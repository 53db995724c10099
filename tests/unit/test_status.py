"""Texts of statuses fit into a header, whatever they are made of."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm4v.status import MAX_TEXT_BYTES, bounded, is_marked, mark


def header(text: str) -> str:
    """As gRPC sends it: all but printable ASCII is percent-encoded, and the percent sign is too."""
    return quote(text, safe="".join(map(chr, range(0x20, 0x7F))).replace("%", ""))


@pytest.mark.parametrize(
    "text", ["z" * 10**5, "图" * 10**5, "%" * 10**5, "🙂" * 10**5, "\n" * 3000]
)
def test_long_texts_keep_both_ends(text: str) -> None:
    short = bounded(f"seen: {text}; send less")
    assert len(header(short)) <= MAX_TEXT_BYTES
    assert short.startswith(f"seen: {text[:100]}")
    assert short.endswith(f"{text[:30]}; send less")
    assert f"... [{len(text) - short.count(text[0])} characters left out] ..." in short


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), st.integers(1, 400))
def test_every_text_fits_and_short_ones_stay(part: str, times: int) -> None:
    text = part * times
    short = bounded(text)
    assert len(header(short)) <= MAX_TEXT_BYTES
    assert (short == text) == (len(header(text)) <= MAX_TEXT_BYTES)


def test_a_mark_is_known_among_other_metadata() -> None:
    assert is_marked([("x", "y"), mark("ABORTED")])
    assert not is_marked([("x", "ABORTED")])
    assert not is_marked(None)
