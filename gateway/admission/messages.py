"""Messages of a request to the turns of a conversation and at most one image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gateway.text.prompt import Turn
from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as api

_ROLES: dict[int, Literal["system", "user", "assistant"]] = {
    api.ROLE_SYSTEM: "system",
    api.ROLE_USER: "user",
    api.ROLE_ASSISTANT: "assistant",
}


@dataclass(frozen=True, slots=True)
class Conversation:
    """Valid turns for the chat template; the last one is the user's."""

    turns: list[Turn]
    image: api.Image | None  # its source is set


def read_messages(messages: Sequence[api.Message]) -> Conversation:
    """Check messages and join their parts. Empty messages are skipped, as in the reference.

    Raises InvalidRequest with the index of the message, from 0.
    """
    if not messages:
        raise InvalidRequest("messages is empty; send at least one user message")
    turns: list[Turn] = []
    image: api.Image | None = None
    image_at = ""
    for number, message in enumerate(messages):
        turn, images = _read_message(f"messages[{number}]", message)
        for at, found in images:
            if image is not None:
                raise InvalidRequest(
                    f"{at} is a second image after {image_at}; a conversation has at most one image"
                )
            image, image_at = found, at
        if turn.role == "system" and turns and turns[-1].role != "system":
            raise InvalidRequest(
                f"messages[{number}] is a system message after another role; move it to the front"
            )
        if not turn.is_empty:
            turns.append(turn)
    _check_last(turns, len(messages))
    return Conversation(turns, image)


def _check_last(turns: Sequence[Turn], message_count: int) -> None:
    if not turns:
        raise InvalidRequest(
            f"messages: all {message_count} messages are empty; send text or an image"
        )
    if turns[-1].role != "user":
        raise InvalidRequest(
            f"messages: the last message that is not empty has the role {turns[-1].role}; "
            "it must be a user message"
        )


def _read_message(at: str, message: api.Message) -> tuple[Turn, list[tuple[str, api.Image]]]:
    role = _ROLES.get(message.role)
    if role is None:
        raise InvalidRequest(
            f"{at}.role is {message.role}; "
            "1 (ROLE_SYSTEM), 2 (ROLE_USER) and 3 (ROLE_ASSISTANT) are allowed"
        )
    texts: list[str] = []
    images: list[tuple[str, api.Image]] = []
    for number, part in enumerate(message.parts):
        here = f"{at}.parts[{number}]"
        content = part.WhichOneof("content")
        if content == "text":
            texts.append(part.text)
        elif content == "image":
            _check_source(here, role, part.image)
            images.append((here, part.image))
        else:
            raise InvalidRequest(f"{here} has no content; set text or image")
    return Turn(role, "\n".join(texts), has_image=bool(images)), images


def _check_source(at: str, role: str, image: api.Image) -> None:
    if role != "user":
        raise InvalidRequest(
            f"{at}: images are allowed in user messages only; this message has the role {role}"
        )
    if image.WhichOneof("source") is None:
        raise InvalidRequest(f"{at}.image has no source; set data or digest")
