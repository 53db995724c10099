"""The CPU: the reference every other device is compared with."""

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
from glm4v.device.linear import Linear, PlainLinear, Then
from glm4v.errors import ConfigurationError
from glm4v.host.memory import free_host_memory_bytes

log = logging.getLogger(__name__)


class CpuDevice(Device):
    """All cores of the machine, by as many threads as torch has.

    `kernels` compute where the arithmetic is float32; without them, and in other dtypes, torch
    does. With `half_weights` weights are kept in bfloat16 while activations, cache and all
    arithmetic are float32. Raises ConfigurationError when there are no kernels for that.
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
        self.arithmetic = self._describe()
        if self._kernels is not None:
            self._kernels.set_threads(torch.get_num_threads())

    def linear(
        self, weight: torch.Tensor, bias: torch.Tensor | None = None, *, then: Then = "nothing"
    ) -> Linear:
        """The product with `weight` [out, in], and what follows it."""
        if self._kernels is None:
            return PlainLinear(weight, bias, then=then)
        return KernelLinear(self._kernels, weight, bias, bits=self._bits, then=then)

    def table(self, weight: torch.Tensor) -> torch.Tensor:
        """Rows to be looked up, in the dtype they are stored in."""
        return weight.bfloat16() if self._bits == 16 else weight

    def decoder(
        self, layers: Iterable[LayerWeights], shape: DecoderShape, collective: Collective
    ) -> Decoder | None:
        """The layers by the kernels, if there are any."""
        if self._kernels is None:
            return None
        return KernelDecoder(self._kernels, layers, shape, collective, bits=self._bits)

    def free_memory_bytes(self) -> int:
        """Host memory this process may still take."""
        return free_host_memory_bytes()

    def paged_attention(self) -> Attention:
        """A new attention with a cache of its own."""
        if self._kernels is None:
            return CpuAttention(self.dtype)
        return KernelAttention(self._kernels)

    def full_attention(self, heads: torch.Tensor) -> torch.Tensor:
        """[batch, rows, 3, heads, head_dim] -> [batch, rows, heads, head_dim]."""
        if self._kernels is not None:
            return attend_all(self._kernels, heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)

    def _describe(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        means = "torch's arithmetic" if self._kernels is None else "compiled kernels"
        weights = ", weights bfloat16" if self._bits == 16 else ""
        return f"{name}{weights}, {means}"
