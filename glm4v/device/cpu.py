"""The CPU: the reference every other device is compared with."""

import logging

import torch
from torch.nn import functional

from glm4v.device.base import Attention, Device
from glm4v.device.cpu_attention import CpuAttention
from glm4v.device.linear import HalfWeightLinear, Linear, PackedLinear, PlainLinear, fits_half
from glm4v.device.memory import free_host_memory_bytes
from glm4v.errors import InvalidRequest

log = logging.getLogger(__name__)


class CpuDevice(Device):
    """All cores of the machine, by torch's threads.

    With `half_weights` weights are kept in float16 while activations, cache and all arithmetic are
    float32. Raises InvalidRequest where the processor or torch cannot.
    """

    def __init__(self, dtype: torch.dtype, *, half_weights: bool = False) -> None:
        if half_weights and not HalfWeightLinear.is_available():
            raise InvalidRequest(
                "dtype 'weights16' needs fbgemm, which this processor or build of torch does not "
                "have; use float32"
            )
        self.name = "cpu"
        self.torch_device = torch.device("cpu")
        self.dtype = dtype
        self.collective_backend = "gloo"
        self._half_weights = half_weights
        self.weight_bytes = 2 if half_weights else dtype.itemsize
        self.arithmetic = _describe(dtype, half_weights=half_weights)

    def linear(
        self, weight: torch.Tensor, bias: torch.Tensor | None = None, *, many_rows: bool = False
    ) -> Linear:
        """The product with `weight` [out, in], by what is fastest for its rows."""
        if self.dtype != torch.float32:
            return PlainLinear(weight, bias)
        if self._half_weights and not many_rows and _is_kept_half(weight):
            return HalfWeightLinear(weight, bias)
        return (
            PackedLinear(weight, bias) if PackedLinear.is_available() else PlainLinear(weight, bias)
        )

    def table(self, weight: torch.Tensor) -> torch.Tensor:
        """Rows to be looked up, in the dtype they are stored in."""
        return weight.half() if self._half_weights and _is_kept_half(weight) else weight

    def free_memory_bytes(self) -> int:
        """Host memory this process may still take."""
        return free_host_memory_bytes()

    def paged_attention(self) -> Attention:
        """A new attention with a cache of its own."""
        return CpuAttention(self.dtype)

    def full_attention(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Attention of every row to every row: [batch, heads, rows, head_dim] -> the same."""
        return functional.scaled_dot_product_attention(query, key, value)


def _is_kept_half(weight: torch.Tensor) -> bool:
    if fits_half(weight):
        return True
    log.warning(
        "a weight of shape %s with values up to %g is kept in float32: float16 does not hold it",
        tuple(weight.shape),
        float(weight.abs().max()),
    )
    return False


def _describe(dtype: torch.dtype, *, half_weights: bool) -> str:
    if half_weights:
        return "weights of 16 bits (float32 where rows are many), arithmetic float32"
    name = str(dtype).removeprefix("torch.")
    packed = dtype == torch.float32 and PackedLinear.is_available()
    return f"{name}, packed weights" if packed else name
