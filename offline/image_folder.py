"""Folders of images, and the question that MindIE's guide for GLM-4V asks about each of them."""

from pathlib import Path

from glm4v.client.conversation_file import read_file
from glm4v.errors import InvalidRequest
from glm4v.images import ImageLimits, inspect

GUIDE_QUESTION = "描述这张图片"
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


def images_in(folder: Path) -> list[Path]:
    """The images of a folder by name; other files are passed over.

    Raises InvalidRequest if the folder cannot be read or has no image.
    """
    try:
        found = sorted(each for each in folder.iterdir() if each.suffix.lower() in _SUFFIXES)
    except OSError as error:
        raise InvalidRequest(f"{folder} cannot be read as a folder: {error.strerror}") from None
    if not found:
        raise InvalidRequest(
            f"{folder} has no image; files named {', '.join(sorted(_SUFFIXES))} are images"
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
