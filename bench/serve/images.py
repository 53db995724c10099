"""Image files of a load, no two alike."""

import io

import numpy as np
from PIL import Image

_SPOTS = 12  # across an image: a smooth one, whose file has a size like that of a photograph
_QUALITY = 85


class ImageFiles:
    """Draws image files. The same seed and number give the same file.

    Args:
        size: Width and height, in pixels.
        seed: Of all images of a load.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._seed = seed
        self._files: dict[int, bytes] = {}

    def file(self, number: int) -> bytes:
        """A JPEG file; it is drawn once."""
        if number not in self._files:
            self._files[number] = self._draw(number)
        return self._files[number]

    def _draw(self, number: int) -> bytes:
        generator = np.random.default_rng((self._seed, number))
        spots = generator.integers(0, 256, (_SPOTS, _SPOTS, 3), dtype=np.uint8)
        image = Image.fromarray(spots).resize((self._size, self._size), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=_QUALITY)
        return file.getvalue()
