"""A vision worker that says when an image is on the device and takes 0.6 s more for it."""

import sys
import time
from collections.abc import Callable

import torch

from glm4v.process.service import main
from glm4v.process.settings import VisionSettings
from vision_worker.__main__ import build
from vision_worker.model import VisionModel

ENCODE_S = 0.6
_encode = VisionModel.encode


def _slowly(self: VisionModel, pixels: torch.Tensor, on_layer: Callable[[], None]) -> torch.Tensor:
    sys.stderr.write("on the device\n")
    for _ in range(20):
        time.sleep(ENCODE_S / 20)
        on_layer()
    return _encode(self, pixels, on_layer)


if __name__ == "__main__":
    VisionModel.encode = _slowly  # type: ignore[method-assign]
    main(VisionSettings, build)
