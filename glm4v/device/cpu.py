"""The CPU: the reference every other device is compared with."""

import torch
from torch.nn import functional

from glm4v.device.base import Attention, Device
from glm4v.device.cpu_attention import CpuAttention
from glm4v.device.memory import free_host_memory_bytes


class CpuDevice(Device):
    """All cores of the machine, by torch's threads."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.name = "cpu"
        self.torch_device = torch.device("cpu")
        self.dtype = dtype
        self.collective_backend = "gloo"

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
