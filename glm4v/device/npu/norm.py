"""The norm in one operator; torch's own takes `hypot`, for which the NPU has no kernel."""

import torch
import torch_npu

from glm4v.device.norm import RmsNorm


class NpuRmsNorm(RmsNorm):
    """In single precision inside, the weight's product included."""

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        self._weight = weight
        self._eps = eps

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[tokens, hidden] -> the same."""
        normed: torch.Tensor = torch_npu.npu_rms_norm(x, self._weight, self._eps)[0]
        return normed
