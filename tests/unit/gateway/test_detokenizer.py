"""Text of an answer, whatever its tokens and however they are grouped."""

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from gateway.text.detokenizer import Detokenizer, Stopped

# A small alphabet makes stop strings and broken characters likely.
CHARACTERS = "ab é猫🐱"
PIECES = st.one_of(
    st.text(CHARACTERS, max_size=3).map(str.encode),
    st.binary(max_size=3),
    st.sampled_from([b"\xf0\x9f", b"\x90\xb1", b"\xc3", b"\xa9", b"\xe7\x8c", b"\xab", b"a", b"b"]),
)
ANSWERS = st.lists(PIECES, max_size=20)
STOPS = st.lists(st.text(CHARACTERS, min_size=1, max_size=4), max_size=4)
CUTS = st.lists(st.integers(0, 20), max_size=5)


def detokenizer(pieces: Sequence[bytes], stops: Sequence[str] = ()) -> Detokenizer:
    """Token i is the bytes of piece i."""
    return Detokenizer(pieces.__getitem__, stops)


def released(pieces: Sequence[bytes], stops: Sequence[str]) -> tuple[list[str], Stopped | None]:
    """The text released after each token, and at the end."""
    one = detokenizer(pieces, stops)
    texts = [one.push([index]) for index in range(len(pieces))]
    return [*texts, one.finish()], one.stopped


def groups(count: int, cuts: Sequence[int]) -> list[range]:
    edges = sorted({0, count, *(cut for cut in cuts if cut < count)})
    return [range(first, after) for first, after in pairwise(edges)]


def first_stop(text: str, stops: Sequence[str]) -> tuple[str, int] | None:
    """By definition: the stop string that ends first, the longest of those that end together."""
    for after in range(1, len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:after].endswith(stop):
                return stop, after - len(stop)
    return None


@given(ANSWERS)
def test_the_text_is_that_of_all_bytes_at_once(pieces: list[bytes]) -> None:
    texts, stopped = released(pieces, [])
    assert "".join(texts) == b"".join(pieces).decode(errors="replace")
    assert stopped is None


@given(ANSWERS, STOPS, CUTS)
def test_grouping_changes_neither_the_text_nor_when_it_is_released(
    pieces: list[bytes], stops: list[str], cuts: list[int]
) -> None:
    texts, stopped = released(pieces, stops)
    grouped = detokenizer(pieces, stops)
    for group in groups(len(pieces), cuts):
        assert grouped.push(group) == "".join(texts[index] for index in group)
    assert grouped.finish() == texts[-1]
    assert grouped.stopped == stopped


@given(ANSWERS, STOPS)
@example([b"a", b"ab", b"abab", b"b"], ["ababb"])  # begins again within itself
def test_the_first_stop_string_of_the_text_ends_it(pieces: list[bytes], stops: list[str]) -> None:
    decoder_text = detokenizer(pieces).push(range(len(pieces)))
    expected = first_stop(decoder_text, stops)
    texts, stopped = released(pieces, stops)
    if expected is None:
        assert stopped is None
        return
    stop, start = expected
    assert stopped is not None
    assert stopped.stop_string == stop
    assert "".join(texts) == decoder_text[:start]
    until = detokenizer(pieces).push(range(stopped.tokens_used))
    before = detokenizer(pieces).push(range(stopped.tokens_used - 1))
    assert first_stop(until, stops) == expected
    assert first_stop(before, stops) is None


@given(ANSWERS, STOPS)
def test_no_more_is_held_back_than_a_stop_string_may_begin_with(
    pieces: list[bytes], stops: list[str]
) -> None:
    one = detokenizer(pieces, stops)
    text = ""
    for index in range(len(pieces)):
        text += one.push([index])
        if one.stopped:
            return
        held = detokenizer(pieces).push(range(index + 1)).removeprefix(text)
        assert held == "" or any(stop.startswith(held) for stop in stops)


@given(ANSWERS, STOPS, CUTS)
def test_the_end_of_the_header_is_a_token_without_text(
    pieces: list[bytes], stops: list[str], cuts: list[int]
) -> None:
    whole = [b"\n", *pieces]
    texts, stopped = released(pieces, stops)
    one = Detokenizer(whole.__getitem__, [*stops], header_id=0)
    for group in groups(len(whole), cuts):
        assert one.push(group) == "".join(["", *texts][index] for index in group)
    assert one.finish() == texts[-1]
    if stopped is not None:
        stopped = stopped._replace(tokens_used=stopped.tokens_used + 1)
    assert one.stopped == stopped


def test_only_the_first_token_and_only_the_headers_own_is_without_text() -> None:
    pieces = [b"\n", b"\n\n", b"a"]
    for answer, text in ([0, 2, 0], "a\n"), ([0, 0, 2], "\na"), ([1, 2], "\n\na"), ([2, 0], "a\n"):
        one = Detokenizer(pieces.__getitem__, header_id=0)
        assert one.push(answer) + one.finish() == text
        assert one.push([2]) == "a"


def test_a_newline_as_stop_string_stops_behind_the_first_line() -> None:
    one = Detokenizer([b"\n", b"a", b"\n\n"].__getitem__, ["\n"], header_id=0)
    assert one.push([0, 1, 2, 1]) == "a"
    assert one.stopped == Stopped("\n", 3)


def test_a_character_is_held_back_until_its_last_byte() -> None:
    cat = [bytes([byte]) for byte in "🐱".encode()]
    assert released(cat, [])[0] == ["", "", "", "🐱", ""]


def test_an_incomplete_character_at_the_end_is_replaced() -> None:
    assert released([b"a\xf0\x9f"], [])[0] == ["a", "\ufffd"]


def test_a_stop_string_is_found_across_tokens_and_characters() -> None:
    pieces = [b"x\xe7", b"\x8c\xab", "🐱".encode(), b"tail"]
    texts, stopped = released(pieces, ["猫🐱"])
    assert texts == ["x", "", "", "", ""]
    assert stopped == Stopped("猫🐱", 3)


def test_what_only_looked_like_a_stop_string_is_released_later() -> None:
    texts, stopped = released([b"a", b"a", b"b", b"a"], ["aac"])
    assert texts == ["", "", "aab", "", "a"]
    assert stopped is None


def test_the_stop_string_that_is_complete_first_wins() -> None:
    assert released([b"xabcd"], ["abcd", "bc"]) == (["xa", ""], Stopped("bc", 1))
    assert released([b"xabc"], ["c", "abc"]) == (["x", ""], Stopped("abc", 1))
