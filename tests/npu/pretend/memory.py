"""The bytes of NPU tensors, seen as CPU tensors."""

import ctypes
from typing import Any, TypeGuard

import torch


def is_npu(value: object) -> TypeGuard[torch.Tensor]:
    """Whether it is a tensor of the pretend device."""
    return isinstance(value, torch.Tensor) and value.device.type == "npu"


def alias(tensor: torch.Tensor) -> torch.Tensor:
    """The same bytes with the same strides; they stay valid as long as the device's memory."""
    size = tensor.untyped_storage().nbytes()
    if not tensor.numel() or not size:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    memory: Any = (ctypes.c_char * size).from_address(tensor.untyped_storage().data_ptr())
    data = torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()
    whole = torch.empty(0, dtype=tensor.dtype)
    return whole.set_(data, tensor.storage_offset(), tensor.shape, tensor.stride())


def on_npu(tensor: torch.Tensor, device: torch.device, *, copy: bool) -> torch.Tensor:
    """A new tensor like a CPU one, with its values if `copy`, and else never written."""
    new = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
    if copy:
        alias(new).copy_(tensor)
    return new
