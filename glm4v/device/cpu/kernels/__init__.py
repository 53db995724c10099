"""The native CPU kernels in C++, prebuilt or compiled on first use."""

from glm4v.device.cpu.kernels.attention import KernelAttention, attend_all, kv_bytes_per_head
from glm4v.device.cpu.kernels.decoder import KernelDecoder
from glm4v.device.cpu.kernels.embedding import read_embedding
from glm4v.device.cpu.kernels.library import Kernels, open_kernels
from glm4v.device.cpu.kernels.linear import KernelLinear
from glm4v.device.cpu.kernels.vision import KernelVisionLayer

__all__ = [
    "KernelAttention",
    "KernelDecoder",
    "KernelLinear",
    "KernelVisionLayer",
    "Kernels",
    "attend_all",
    "kv_bytes_per_head",
    "open_kernels",
    "read_embedding",
]
