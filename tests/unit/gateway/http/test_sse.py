"""Frames of server-sent events, byte for byte."""

from gateway.doors.http.sse import EventStreamFraming

SSE = EventStreamFraming()


def test_a_frame_is_one_line_of_data() -> None:
    assert SSE.frames([b"{}"], None) == b"data: {}\n\n"
    assert SSE.frames([b"1", b"2"], None) == b"data: 1\n\ndata: 2\n\n"
    assert EventStreamFraming(space=False).frames([b"{}"], None) == b"data:{}\n\n"


def test_nothing_is_no_frame_even_with_an_id() -> None:
    assert SSE.frames([], "r:1") == b""


def test_whoever_has_the_last_frame_has_its_position() -> None:
    assert SSE.frames([b"1", b"2"], "r:1") == b"data: 1\n\nid: r:1\ndata: 2\n\n"


def test_comments_and_errors() -> None:
    assert SSE.comment("queued") == b": queued\n\n"
    assert SSE.error(b"{}") == b"event: error\ndata: {}\n\n"
