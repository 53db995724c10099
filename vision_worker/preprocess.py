"""From a picture file to what the vision tower sees."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from glm4v.images import ImageLimits
from glm4v.images.pixels import decode

# Of the red, green and blue channels. Source: tokenization_chatglm.py of THUDM/glm-4v-9b (CLIP's).
_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def pixel_values(data: bytes, size: int, limits: ImageLimits) -> npt.NDArray[np.float32]:
    """The picture as normalised channels [3, size, size].

    Squeezed to the square whatever its shape: no crop, no padding, as the model was trained.
    Raises InvalidRequest for what `glm4v.images.decode` refuses.
    """
    image = decode(data, limits).resize((size, size), Image.Resampling.BICUBIC)
    scaled = np.asarray(image, np.float32) / np.float32(255)  # [size, size, 3]
    normalised: npt.NDArray[np.float32] = (scaled - _MEAN) / _DEVIATION
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))
