"""Image files of a load, no two alike."""

import asyncio
import io
from collections import OrderedDict

import numpy as np
from PIL import Image

KEPT = 500  # files in memory: 40 MB of 1120 pixels
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
        self._files: OrderedDict[int, bytes] = OrderedDict()  # the last used ones at the end

    async def file(self, number: int) -> bytes:
        """A JPEG file, drawn in a thread unless it is kept."""
        if number not in self._files:
            self._files[number] = await asyncio.to_thread(self._draw, number)
        self._files.move_to_end(number)
        while len(self._files) > KEPT:
            self._files.popitem(last=False)
        return self._files[number]

    def _draw(self, number: int) -> bytes:
        generator = np.random.default_rng((self._seed, number))
        spots = generator.integers(0, 256, (_SPOTS, _SPOTS, 3), dtype=np.uint8)
        image = Image.fromarray(spots).resize((self._size, self._size), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=_QUALITY)
        return file.getvalue()
