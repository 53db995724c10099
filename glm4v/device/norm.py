"""Root-mean-square norms with a fixed weight."""

import math
from abc import ABC, abstractmethod

import torch


class RmsNorm(ABC):
    """x / sqrt(mean(x^2) + eps) * weight, over the last dimension."""

    @abstractmethod
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[tokens, hidden] -> the same."""


class PlainRmsNorm(RmsNorm):
    """x / rms(x) * weight, in single precision up to the last step.

    The weight is multiplied before rounding to the model's dtype, as modeling_chatglm.py does. With
    n columns, rms(x) = sqrt(|x|^2 / n + eps) = hypot(|x|, sqrt(n eps)) / sqrt(n): four operations
    on the device where torch's own norm takes seven.
    """

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        weight = weight.float()
        self._scaled = weight * math.sqrt(len(weight))
        self._least = torch.tensor(math.sqrt(len(weight) * eps), device=weight.device)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[tokens, hidden] -> the same."""
        exact = x.float()
        length = torch.linalg.vector_norm(exact, dim=-1, keepdim=True)
        return (exact / torch.hypot(length, self._least) * self._scaled).to(x.dtype)
