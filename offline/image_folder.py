"""Folders of images, and the question that MindIE's guide for GLM-4V asks about each of them."""

from pathlib import Path

from glm4v.client.conversation_file import read_file
from glm4v.errors import InvalidRequest
from glm4v.images import ImageLimits, inspect

GUIDE_QUESTION = "描述这张图片"
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


def images_in(place: Path) -> list[Path]:
    """The images of a folder by name, without its other files; a file is taken as it is.

    Raises InvalidRequest if there is nothing at this place, or a folder that cannot be read or has
    no image.
    """
    try:
        if not place.is_dir():
            place.stat()
            return [place]
        found = sorted(each for each in place.iterdir() if each.suffix.lower() in _SUFFIXES)
    except OSError as error:
        raise InvalidRequest(
            f"{place} cannot be read as an image or a folder: {error.strerror}"
        ) from None
    if not found:
        raise InvalidRequest(
            f"{place} has no image; files named {', '.join(sorted(_SUFFIXES))} are images"
        )
    return found


def read_image(path: Path) -> bytes:
    """The bytes of an image file. Raises InvalidRequest, with its name, if it is no image."""
    data = read_file(path, "image")
    try:
        inspect(data, ImageLimits())
    except InvalidRequest as error:
        raise InvalidRequest(f"{path}: {error}") from None
    return data
