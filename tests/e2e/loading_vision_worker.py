"""A vision worker whose weights take minutes to read."""

import sys
import time

from glm4v.process.service import main
from glm4v.process.settings import VisionSettings
from vision_worker.__main__ import build
from vision_worker.encoder import Encoder


def _for_minutes(self: Encoder) -> None:
    sys.stderr.write("reading weights\n")
    time.sleep(600)


if __name__ == "__main__":
    Encoder._load = _for_minutes  # type: ignore[method-assign]
    main(VisionSettings, build)
