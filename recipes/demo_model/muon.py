"""Muon (Jordan and others, 2024): momentum whose update is made orthogonal, for matrices.

`torch.optim.Muon` does the same in bfloat16 always, which a CPU without such instructions takes
thirty times as long for. Here it is float32, which costs a CPU that has them little. And where
several processes train together, each finds the updates of a part of the matrices.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import distributed

_COEFFICIENTS = (3.4445, -4.775, 2.0315)  # of the quintic iteration, as published
_ITERATIONS = 5
_MOMENTUM = 0.95
_LIKE_ADAM = 0.2  # the mean square of an update of AdamW


class Muon(torch.optim.Optimizer):
    """For parameters of two dimensions; `rate` means what it means to AdamW."""

    def __init__(
        self, groups: list[dict[str, Any]], rate: float, *, weight_decay: float = 0.0
    ) -> None:
        super().__init__(groups, {"lr": rate, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Change all parameters that have a gradient."""
        changed = [
            (parameter, group)
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        updates = _plan_batch([self._wanted(parameter) for parameter, _ in changed])
        for (parameter, group), update in zip(changed, updates, strict=True):
            rate = group["lr"]
            parameter.mul_(1 - rate * group["weight_decay"])
            parameter.add_(update, alpha=-rate * _LIKE_ADAM * max(parameter.shape) ** 0.5)

    def _wanted(self, parameter: torch.Tensor) -> torch.Tensor:
        """The momentum, looking ahead."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        mean = state["momentum_buffer"].lerp_(parameter.grad, 1 - _MOMENTUM)
        return parameter.grad.lerp(mean, _MOMENTUM)


def _plan_batch(wanted: list[torch.Tensor]) -> list[torch.Tensor]:
    """All matrices made orthogonal, each by one of the processes."""
    if not wanted or not distributed.is_initialized():
        return list(map(orthogonal, wanted))
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    found = torch.cat(
        [
            orthogonal(matrix).flatten()
            if number % processes == rank
            else torch.zeros(matrix.numel(), device=matrix.device)
            for number, matrix in enumerate(wanted)
        ]
    )
    distributed.all_reduce(found)
    parts = torch.split(found, [matrix.numel() for matrix in wanted])
    return [part.view_as(matrix) for part, matrix in zip(parts, wanted, strict=True)]


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix with the same singular vectors, whose singular values are all near 1."""
    is_tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.T if is_tall else matrix
    wide = wide / wide.norm().clamp(min=1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if is_tall else wide
