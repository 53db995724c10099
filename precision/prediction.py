"""Captions that are still to be made for a folder of images, and the file that they go into."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from glm4v.errors import Glm4vError, InvalidRequest
from precision.captions import merge_captions


class Prediction:
    """The work of one run. Captions that the file has already are not made again.

    Attributes:
        left: The images without a caption, at the start.
        failures: What is wrong with single images, by name.
    """

    def __init__(
        self,
        images: Sequence[Path],
        out: Path,
        on_image: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_image` is told of each image that is done, with a caption or without.

        Raises InvalidRequest if `out` is no caption file or a name is not UTF-8, and
        ConfigurationError if `out` cannot be written.
        """
        for image in images:
            _check_name(image)
        present = merge_captions(out, {})
        self._out = out
        self.left = [image for image in images if image.name not in present]
        self.failures: dict[str, Glm4vError] = {}
        self._on_image = on_image

    def keep(self, captions: Mapping[str, str]) -> None:
        """Write captions by image name; on the disk when it returns."""
        merge_captions(self._out, captions)
        for _ in captions:
            self._on_image()

    def fail(self, name: str, error: Glm4vError) -> None:
        """Note that an image gets no caption."""
        self.failures[name] = error
        self._on_image()


def _check_name(image: Path) -> None:
    try:
        image.name.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(
            f"{image.name!r} is no name that JSON can hold (not UTF-8); rename the file"
        ) from None
