"""What the header of an image file says, and how a file is refused."""

from dataclasses import dataclass

from glm4v.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """Read without decoding a pixel; each format adds what its decoding needs."""

    format: str  # as Pillow names it
    width: int  # pixels as stored, before the orientation is applied
    height: int

    def essence(self, data: bytes) -> bytes:
        """The file with nothing in it but what the pixels and their orientation need.

        Whatever else a file holds (text, colour profiles, previews, further frames) costs time
        and memory, and may be too large for a decoder that has no use for it.
        """
        return data


class Damaged(Exception):
    """The file ends early, or breaks its format; the reader adds its name and size."""


def not_read(format: str, form: str) -> InvalidRequest:
    """A file that is in order, of a form that is not decoded; `form` names it."""
    return InvalidRequest(
        f"a {format} image with {form} is not read; send it as PNG or JPEG with 8 bits a channel"
    )


def too_many(format: str, what: str, most: int) -> InvalidRequest:
    """More repetitions of something than are decoded."""
    return InvalidRequest(
        f"the {format} image has more than {most} {what}; send it written anew, without them"
    )
