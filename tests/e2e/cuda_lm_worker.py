"""A language worker that runs the code for GPUs, with the CPU in the GPU's place.

While the file that CUDA_FAULT names exists, its steps end as those of a GPU that failed.
"""

import os
from pathlib import Path

import torch

from glm4v.device import DeviceOptions
from glm4v.device.cuda.device import CudaDevice
from lm_worker.__main__ import run
from lm_worker.model.runner import Runner
from lm_worker.plan import StepPlan, StepResult

_execute = Runner.execute


def on_the_cpu(cls: type[CudaDevice], options: DeviceOptions) -> CudaDevice:
    """In place of `CudaDevice.open`."""
    return cls(torch.device("cpu"), torch.float32)


def take_the_cpu() -> None:
    """Let this process take the CPU for its GPU, with a memory of 256 MiB."""
    os.environ["GLM4V_DEVICE"] = "cuda"
    CudaDevice.free_memory_bytes = lambda self: 2**28  # type: ignore[method-assign]
    CudaDevice.open = classmethod(on_the_cpu)  # type: ignore[method-assign, assignment]


def _execute_or_fail(self: Runner, plan: StepPlan) -> StepResult:
    if Path(os.environ.get("CUDA_FAULT", "/none")).exists():
        raise torch.AcceleratorError(
            "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be …"
        )
    return _execute(self, plan)


if __name__ == "__main__":
    take_the_cpu()
    Runner.execute = _execute_or_fail  # type: ignore[method-assign]
    run()
