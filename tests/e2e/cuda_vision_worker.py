"""A vision worker that runs the code for GPUs, with the CPU in the GPU's place."""

from glm4v.process.service import main
from glm4v.process.settings import VisionSettings
from tests.e2e.cuda_lm_worker import take_the_cpu
from vision_worker.__main__ import build

if __name__ == "__main__":
    take_the_cpu()
    main(VisionSettings, build)
