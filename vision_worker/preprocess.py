"""Turns image files into the input of the vision tower."""

import numpy as np
import numpy.typing as npt

from glm4v.images import ImageLimits
from glm4v.images.pixels import square

# Per channel: red, green, blue. Source: tokenization_chatglm.py of THUDM/glm-4v-9b (CLIP's).
_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def pixel_values(data: bytes, size: int, limits: ImageLimits) -> npt.NDArray[np.float32]:
    """The image as normalised channels [3, size, size], decoded in this process.

    Raises InvalidRequest for what `glm4v.images.pixels.decode` refuses.
    """
    return normalised(square(data, size, limits), size)


def normalised(rgb: bytes | bytearray, size: int) -> npt.NDArray[np.float32]:
    """The bytes of `size` x `size` pixels as normalised channels [3, size, size]."""
    # Channel by channel: a loop over the three values of a pixel takes a dozen times as long.
    image = np.frombuffer(rgb, np.uint8).reshape(size, size, 3)
    channels = image.transpose(2, 0, 1).astype(np.float32, order="C")
    channels /= np.float32(255)
    channels -= _MEAN[:, None, None]
    channels /= _DEVIATION[:, None, None]
    return channels
