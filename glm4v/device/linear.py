"""Multiplication by a fixed weight, by the fastest way the weight's device has."""

from abc import ABC, abstractmethod

import torch
from torch.nn import functional


class Linear(ABC):
    """x @ weight.T + bias for a weight that never changes."""

    @abstractmethod
    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out], in the dtype of `rows`."""


class PlainLinear(Linear):
    """torch's own product, for every device and dtype."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self._weight = weight
        self._bias = bias

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        return functional.linear(rows, self._weight, self._bias)
