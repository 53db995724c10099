"""A device that serves without arithmetic, to try everything around the model."""

from collections.abc import Iterable

import torch

from glm4v.checkpoint.quantized import Matrix, as_tensor
from glm4v.device.base import Attention, Decoder, DecoderShape, Device, LayerWeights
from glm4v.device.collectives import Collective, ProcessGroup, init_gloo_group
from glm4v.device.linear import Epilogue, Linear
from glm4v.device.options import DeviceOptions, parse_weight_dtype
from glm4v.device.simulated.attention import SimulatedAttention
from glm4v.device.simulated.decoder import SimulatedDecoder
from glm4v.device.simulated.linear import SimulatedLinear
from glm4v.errors import ConfigurationError

_MEMORY_BYTES = 32 * 2**30


class SimulatedDevice(Device):
    """Tokens are a function of the weights and of all tokens and images before them.

    They are the same for every batch, chunking, block table and number of ranks.
    """

    def __init__(self) -> None:
        self.name = "simulated"
        self.torch_device = torch.device("cpu")
        self.dtype = torch.float32
        self.description = "hashes in place of arithmetic"
        self.weight_bytes = 4
        self.has_drafts = True

    @classmethod
    def open(cls, options: DeviceOptions) -> "SimulatedDevice":
        """The device; raises ConfigurationError for other dtypes than float32."""
        for name in (options.dtype, options.weight_dtype):
            if parse_weight_dtype(name) not in (None, torch.float32):
                raise ConfigurationError(f"the simulated device has float32 only, not {name}")
        return cls()

    def free_memory_bytes(self) -> int:
        """That of one accelerator; nothing is allocated."""
        return _MEMORY_BYTES

    def init_group(
        self, address: str, *, rank: int, size: int, timeout_s: float, join_timeout_s: float
    ) -> ProcessGroup:
        """Join a group over gloo."""
        return init_gloo_group(
            address, rank=rank, size=size, timeout_s=timeout_s, join_timeout_s=join_timeout_s
        )

    def linear(
        self,
        weight: Matrix,
        bias: torch.Tensor | None = None,
        *,
        epilogue: Epilogue = "none",
    ) -> Linear:
        """A layer of random weights, seeded by `weight`."""
        return SimulatedLinear(as_tensor(weight, self.dtype), epilogue)

    def decoder(
        self, layers: Iterable[LayerWeights], shape: DecoderShape, collective: Collective
    ) -> Decoder:
        """Layers without weights: none of `layers` is read."""
        return SimulatedDecoder()

    def paged_attention(self) -> Attention:
        """A new cache of hashes."""
        return SimulatedAttention()

    def full_attention(self, qkv: torch.Tensor) -> torch.Tensor:
        """The values: [batch, tokens, 3, heads, head_dim] -> [batch, tokens, heads, head_dim]."""
        return qkv[:, :, 2]
