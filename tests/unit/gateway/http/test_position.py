"""Ids of server-sent events."""

import pytest

from gateway.doors.http.position import Position
from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as api


def test_a_position_moves_with_the_events_and_is_read_back() -> None:
    position = Position("r-1", [0, 0])
    assert str(position) == "r-1:0,0"
    delta = api.Delta(first_index=3, token_ids=[5, 6])
    position.move(api.GenerationEvent(delta=delta, choice=1))
    position.move(api.GenerationEvent(finished=api.Finished(), choice=0))
    assert str(position) == "r-1:0!,5"
    position.is_complete = True
    for text in ("r-1:0,0", "r-1:0!,5", str(position)):
        assert str(Position.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["1", "r:", "r:x", "r:1,", "r:1;;", "r 1:2", "r:" + "1," * 16 + "1"]
)
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="Last-Event-ID is "):
        Position.parse(text)
