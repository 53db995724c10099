"""A linear layer whose outputs are exact in every batch, on every machine and for every shard."""

import numpy as np
import torch

from glm4v.device.linear import Epilogue, Linear
from glm4v.device.simulated.hashing import COLUMNS, numbered

_BITS = 18  # of a weight; COLUMNS of them add up to an exact float32


class SimulatedLinear(Linear):
    """Random integer weights, seeded by those of the checkpoint, times the signs of a row.

    With a gate the rows of the gate alone count; biases do not, and no epilogue is applied.
    """

    def __init__(self, weight: torch.Tensor, epilogue: Epilogue) -> None:
        out = weight.shape[0] // 2 if epilogue == "silu_gate" else weight.shape[0]
        seeds = weight[:out, :COLUMNS].float().contiguous().numpy().view(np.uint32)
        integers = (numbered(seeds.astype(np.uint64)) >> np.uint64(64 - _BITS)).astype(np.float32)
        self._weight = torch.from_numpy((integers - 2.0 ** (_BITS - 1)).T.copy())  # [columns, out]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        is_negative = x[..., : len(self._weight)] < 0
        return (1.0 - 2.0 * is_negative.float()) @ self._weight / 2.0 ** (_BITS - 1)
