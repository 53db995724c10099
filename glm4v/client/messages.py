"""Messages of a conversation, from texts and image files."""

from collections.abc import Sequence

from glm4v.errors import InvalidRequest
from glm4v.v1 import inference_pb2 as pb


def system_message(text: str) -> pb.Message:
    """Instructions to the model, before the first question."""
    return pb.Message(role=pb.ROLE_SYSTEM, parts=[text_part(text, "the instructions")])


def user_message(
    text: str, image: bytes | None = None, *, image_digest: str | None = None
) -> pb.Message:
    """A message of the user: a question, and optionally an image.

    The image is the bytes of a file, or the digest of one that was sent before
    (`Generation.accepted.image_digest`), as long as it is stored.

    Raises InvalidRequest if the text is not valid Unicode (a command-line argument may not be).
    """
    parts = [text_part(text, "the question")]
    if image is not None:
        parts.insert(0, image_part(image))
    if image_digest is not None:
        parts.insert(0, pb.ContentPart(image=pb.Image(digest=image_digest)))
    return pb.Message(role=pb.ROLE_USER, parts=parts)


def assistant_message(text: str) -> pb.Message:
    """An earlier answer of the model, for the next question of a conversation.

    Pass the answer's text unchanged: the template restores the tokens that the model generated.
    """
    return pb.Message(role=pb.ROLE_ASSISTANT, parts=[text_part(text, "the answer")])


def attach_image(messages: Sequence[pb.Message], image: bytes) -> None:
    """Insert an image into the first user message.

    Raises InvalidRequest if the conversation has an image already, or has no user message.
    """
    for index, message in enumerate(messages):
        if any(part.HasField("image") for part in message.parts):
            raise InvalidRequest(
                f"messages[{index}] already has an image; a conversation has at most one"
            )
    for message in messages:
        if message.role == pb.ROLE_USER:
            message.parts.insert(0, image_part(image))
            return
    raise InvalidRequest(
        f"none of the {len(messages)} messages is from the user, to add an image to"
    )


def text_part(text: str, place: str) -> pb.ContentPart:
    """A text as part of a message. Raises InvalidRequest, with the `place`, if it is not Unicode.

    JSON can spell one half of a surrogate pair, and Python represents arguments that are not UTF-8
    by such halves; protobuf cannot hold them.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{place}: not Unicode text at character {error.start}") from None
    return pb.ContentPart(text=text)


def image_part(image: bytes) -> pb.ContentPart:
    """The bytes of an image file as part of a message."""
    return pb.ContentPart(image=pb.Image(data=image))
