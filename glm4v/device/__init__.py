"""Device backends; the CPU is the reference all others are compared with."""

import torch

from glm4v.device.base import Attention, AttentionSegment, Device
from glm4v.errors import InvalidRequest

__all__ = ["Attention", "AttentionSegment", "Device", "open_device"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def open_device(name: str, dtype: str) -> Device:
    """The device called `name` ("cpu", or "auto" for the best there is), computing in `dtype`.

    Raises InvalidRequest for a name or dtype that is not known.
    """
    if dtype not in _DTYPES:
        raise InvalidRequest(f"dtype {dtype!r} is not known; use one of {', '.join(_DTYPES)}")
    if name in ("auto", "cpu"):
        from glm4v.device.cpu import CpuDevice

        return CpuDevice(_DTYPES[dtype])
    raise InvalidRequest(f"device {name!r} is not known; use 'cpu' or 'auto'")
