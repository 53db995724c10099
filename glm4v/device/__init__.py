"""Device backends; the CPU is the reference for all others."""

import logging

import torch

from glm4v.device.base import (
    Attention,
    AttentionSegment,
    Decoder,
    DecoderShape,
    Device,
    LayerWeights,
)
from glm4v.errors import ConfigurationError

__all__ = [
    "Attention",
    "AttentionSegment",
    "Decoder",
    "DecoderShape",
    "Device",
    "LayerWeights",
    "open_device",
]

log = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SPELLINGS = ("auto", "weights16", *_DTYPES)


def open_device(name: str, dtype: str, *, is_bfloat16: bool = False) -> Device:
    """The device called `name` ("cpu", or "auto" for the best there is), computing in `dtype`.

    `dtype` "weights16" keeps weights in 16 bits and computes in float32; "auto" is that where it
    loses nothing, as with a checkpoint that `is_bfloat16`, else "float32". Raises
    ConfigurationError for what is not known or not possible.
    """
    if dtype not in _SPELLINGS:
        raise ConfigurationError(
            f"dtype {dtype!r} is not known; use one of {', '.join(_SPELLINGS)}"
        )
    if name not in ("auto", "cpu"):
        raise ConfigurationError(f"device {name!r} is not known; use 'cpu' or 'auto'")
    from glm4v.device.cpu.device import CpuDevice
    from glm4v.device.cpu.kernels import open_kernels

    kernels = open_kernels() if dtype in ("auto", "weights16", "float32") else None
    if dtype == "auto":
        dtype = "weights16" if kernels is not None and is_bfloat16 else "float32"
    half_weights = dtype == "weights16"
    if half_weights and not is_bfloat16:
        log.warning(
            "converting weights to bfloat16; the checkpoint is not bfloat16, precision is lost"
        )
    device = CpuDevice(_DTYPES.get(dtype, torch.float32), kernels, half_weights=half_weights)
    log.info("device %s: %s", device.name, device.description)
    return device
