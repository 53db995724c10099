"""GLM-4V-9B's sizes with random weights made on the device: 28 GB that need not be read."""

from collections.abc import Sequence

import torch

from glm4v.checkpoint.spec import ModelSpec, VisionSpec
from glm4v.checkpoint.tensor_shapes import expected_tensors
from glm4v.checkpoint.weights import Weights
from glm4v.device import Device

# config.json of THUDM/glm-4v-9b.
GLM_4V_9B = ModelSpec(
    hidden_size=4096,
    layers=40,
    heads=32,
    kv_heads=2,
    head_dim=128,
    ffn_size=13696,
    vocab_size=151552,
    context_tokens=8192,
    norm_eps=1.5625e-07,
    rope_base=10000.0,
    first_special_id=151329,
    boi_id=151339,
    eoi_id=151340,
    eos_ids=(151329, 151336, 151338),
    vision=VisionSpec(
        hidden_size=1792,
        layers=63,
        heads=16,
        mlp_size=15360,
        patch_size=14,
        image_size=1120,
        norm_eps=1e-06,
        scaling_factor=8.0,
    ),
)
_SCALE = 0.02  # standard deviation of a weight


class RandomWeights(Weights):
    """Every tensor of a checkpoint of this geometry, made when it is read; none in 8 bits."""

    def __init__(self, spec: ModelSpec, device: Device) -> None:
        self._shapes = dict(expected_tensors(spec))
        self._on = device
        self._packs_files = False

    def read(
        self,
        name: str,
        *,
        rows: Sequence[tuple[int, int]] | None = None,
        columns: tuple[int, int] | None = None,
    ) -> torch.Tensor:
        """A tensor of the shape that the part of `name` has."""
        shape = list(self._shapes[name])
        if rows is not None:
            shape[0] = sum(end - start for start, end in rows)
        if columns is not None:
            shape[1] = columns[1] - columns[0]
        tensor = torch.empty(shape, dtype=self._on.dtype, device=self._on.torch_device)
        return tensor.normal_(0.0, _SCALE)

    def read_squares(self, name: str) -> torch.Tensor:
        """The same."""
        return self.read(name).permute(0, 2, 3, 1).flatten(1)

    def read_matrix(
        self,
        name: str,
        *,
        rows: Sequence[tuple[int, int]] | None = None,
        columns: tuple[int, int] | None = None,
    ) -> torch.Tensor:
        """The same."""
        return self.read(name, rows=rows, columns=columns)
