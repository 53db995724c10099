"""Where a client is in a stream: the ids of server-sent events.

    REQUEST:12,7!           12 tokens of choice 0, and choice 1 is complete with 7
    REQUEST:12!,7!;         all that comes before the end of the stream

A client that sends the last id that it got receives what follows it, from any gateway.
"""

import re
from collections.abc import Sequence

from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as api

_FORM = re.compile(r"([A-Za-z0-9._-]{1,128}):(\d{1,9}!?(?:,\d{1,9}!?){0,15})(;?)")


class Position:
    """The position of one client in the stream of one request.

    Attributes:
        request_id: Of the request.
        tokens: How many the client has of each choice.
        ended: The choices whose end it has.
        is_complete: Whether it has all but the end of the stream.
    """

    def __init__(self, request_id: str, tokens: Sequence[int]) -> None:
        self.request_id = request_id
        self.tokens = list(tokens)
        self.ended: set[int] = set()
        self.is_complete = False

    @classmethod
    def parse(cls, text: str) -> "Position":
        """The position of an id. Raises InvalidRequest for a text that is none."""
        found = _FORM.fullmatch(text)
        if found is None:
            raise InvalidRequest(
                f"Last-Event-ID is {text[:140]!r}; send the id of the last event as it came, or "
                "nothing for a new stream"
            )
        request_id, tokens, complete = found.groups()
        parts = tokens.split(",")
        position = cls(request_id, [int(part.removesuffix("!")) for part in parts])
        position.ended = {choice for choice, part in enumerate(parts) if part.endswith("!")}
        position.is_complete = bool(complete)
        return position

    def __str__(self) -> str:
        parts = (
            f"{tokens}!" if choice in self.ended else str(tokens)
            for choice, tokens in enumerate(self.tokens)
        )
        return f"{self.request_id}:{','.join(parts)}{';' if self.is_complete else ''}"

    def move(self, event: api.GenerationEvent) -> None:
        """Go on by an event."""
        if event.HasField("delta"):
            self.tokens[event.choice] = event.delta.first_index + len(event.delta.token_ids)
        elif event.HasField("finished"):
            self.ended.add(event.choice)
