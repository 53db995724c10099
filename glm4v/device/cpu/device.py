"""The CPU: the reference for all other devices."""

import logging
from collections.abc import Iterable

import torch
from torch.nn import functional

from glm4v.device.base import Attention, Decoder, DecoderShape, Device, LayerWeights
from glm4v.device.collectives import Collective
from glm4v.device.cpu.attention import CpuAttention
from glm4v.device.cpu.kernels import (
    KernelAttention,
    KernelDecoder,
    KernelLinear,
    Kernels,
    attend_all,
)
from glm4v.device.linear import Epilogue, Linear, PlainLinear
from glm4v.errors import ConfigurationError
from glm4v.host.memory import free_host_memory_bytes

log = logging.getLogger(__name__)


class CpuDevice(Device):
    """The cores of the machine, with as many threads as torch has.

    `kernels` compute in float32; torch computes without them and in other dtypes. `half_weights`
    stores weights in bfloat16 while activations, cache and arithmetic are float32; raises
    ConfigurationError without kernels.
    """

    def __init__(
        self, dtype: torch.dtype, kernels: Kernels | None = None, *, half_weights: bool = False
    ) -> None:
        if half_weights and kernels is None:
            raise ConfigurationError(
                "dtype 'weights16' needs a C++ compiler; install one (apt install g++), or use "
                "float32"
            )
        self.name = "cpu"
        self.torch_device = torch.device("cpu")
        self.dtype = dtype
        self.collective_backend = "gloo"
        self._kernels = kernels if dtype == torch.float32 else None
        self._bits = 16 if half_weights else 32
        self.weight_bytes = 2 if half_weights else dtype.itemsize
        self.description = self._describe()
        if self._kernels is not None:
            self._kernels.set_num_threads(torch.get_num_threads())

    def linear(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        *,
        epilogue: Epilogue = "none",
    ) -> Linear:
        """The product with `weight` [out, in], followed by `epilogue`."""
        if self._kernels is None:
            return PlainLinear(weight, bias, epilogue=epilogue)
        return KernelLinear(self._kernels, weight, bias, bits=self._bits, epilogue=epilogue)

    def embedding_table(self, weight: torch.Tensor) -> torch.Tensor:
        """The embedding table in the dtype it is stored in."""
        return weight.bfloat16() if self._bits == 16 else weight

    def decoder(
        self, layers: Iterable[LayerWeights], shape: DecoderShape, collective: Collective
    ) -> Decoder | None:
        """The layers in the kernels, if there are any."""
        if self._kernels is None:
            return None
        return KernelDecoder(self._kernels, layers, shape, collective, bits=self._bits)

    def free_memory_bytes(self) -> int:
        """Host memory that this process may still allocate."""
        return free_host_memory_bytes()

    def paged_attention(self) -> Attention:
        """A new attention with a cache of its own."""
        if self._kernels is None:
            return CpuAttention(self.dtype)
        return KernelAttention(self._kernels)

    def full_attention(self, qkv: torch.Tensor) -> torch.Tensor:
        """[batch, tokens, 3, heads, head_dim] -> [batch, tokens, heads, head_dim]."""
        if self._kernels is not None:
            return attend_all(self._kernels, qkv)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)

    def _describe(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        engine = "PyTorch" if self._kernels is None else "native kernels"
        weights = ", weights bfloat16" if self._bits == 16 else ""
        return f"{name}{weights}, {engine}"
