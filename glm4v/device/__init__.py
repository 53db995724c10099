"""Device backends; the CPU is the reference all others are compared with."""

import logging

import torch

from glm4v.device.base import Attention, AttentionSegment, Device
from glm4v.errors import InvalidRequest

__all__ = ["Attention", "AttentionSegment", "Device", "open_device"]

log = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SPELLINGS = ("auto", "weights16", *_DTYPES)


def open_device(name: str, dtype: str) -> Device:
    """The device called `name` ("cpu", or "auto" for the best there is), computing in `dtype`.

    `dtype` "weights16" keeps weights in 16 bits and computes in float32; "auto" is that where the
    processor can, else "float32". Raises InvalidRequest for what is not known or not possible.
    """
    if dtype not in _SPELLINGS:
        raise InvalidRequest(f"dtype {dtype!r} is not known; use one of {', '.join(_SPELLINGS)}")
    if name not in ("auto", "cpu"):
        raise InvalidRequest(f"device {name!r} is not known; use 'cpu' or 'auto'")
    from glm4v.device.cpu import CpuDevice
    from glm4v.device.linear import HalfWeightLinear

    if dtype == "auto":
        dtype = "weights16" if HalfWeightLinear.is_available() else "float32"
    half_weights = dtype == "weights16"
    device = CpuDevice(_DTYPES.get(dtype, torch.float32), half_weights=half_weights)
    log.info("device %s: %s", device.name, device.arithmetic)
    return device
