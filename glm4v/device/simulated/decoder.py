"""Decoder layers that hash the context of each token."""

import torch

from glm4v.device.base import Attention, Decoder
from glm4v.device.simulated.attention import SimulatedAttention
from glm4v.device.simulated.hashing import COLUMNS, row_hashes, signs


class SimulatedDecoder(Decoder):
    """All layers of a call as one; every rank computes the whole result."""

    def __init__(self) -> None:
        self._done = 0

    @property
    def layers_done(self) -> int:
        """Layers computed since the start."""
        return self._done

    def run(
        self,
        layers: range,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        attention: Attention,
        needed: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[tokens, hidden] -> the same: signs in the first columns, zeros in the others."""
        if not isinstance(attention, SimulatedAttention):
            raise TypeError(f"attention of another device: {attention!r}")
        contexts = attention.attend(layers.start, row_hashes(hidden))
        columns = min(COLUMNS, hidden.shape[1])
        result = torch.zeros_like(hidden)
        result[:, :columns] = signs(contexts, columns)
        self._done += len(layers)
        return result if needed is None else result[needed]
