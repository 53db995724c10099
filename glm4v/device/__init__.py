"""Device backends, one folder each; the CPU is the reference for all others."""

import logging

from glm4v.host.torch_environment import prepare_torch

prepare_torch()  # here, since torch is imported by what follows

from glm4v.device.base import (  # noqa: E402
    Attention,
    AttentionSegment,
    Decoder,
    DecoderShape,
    Device,
    LayerWeights,
    VisionLayer,
    VisionLayerWeights,
    VisionShape,
)
from glm4v.device.options import DeviceOptions  # noqa: E402
from glm4v.errors import ConfigurationError  # noqa: E402

__all__ = [
    "Attention",
    "AttentionSegment",
    "Decoder",
    "DecoderShape",
    "Device",
    "DeviceOptions",
    "LayerWeights",
    "VisionLayer",
    "VisionLayerWeights",
    "VisionShape",
    "open_device",
]

log = logging.getLogger(__name__)


def open_device(options: DeviceOptions) -> Device:
    """The device that `options` name; "auto" is the best one there is.

    Raises ConfigurationError for options that are unknown or that the device cannot satisfy.
    """
    device: Device
    name = best_device() if options.device == "auto" else options.device
    match name:
        case "cpu":
            from glm4v.device.cpu.device import CpuDevice

            device = CpuDevice.open(options)
        case "cuda":
            from glm4v.device.cuda.device import CudaDevice

            device = CudaDevice.open(options)
        case "npu":
            from glm4v.device.npu.package import load_torch_npu

            load_torch_npu()
            from glm4v.device.npu.device import NpuDevice

            device = NpuDevice.open(options)
        case "simulated":
            from glm4v.device.simulated.device import SimulatedDevice

            device = SimulatedDevice.open(options)
        case _:
            raise ConfigurationError(
                f"unknown device {name!r}; use one of auto, cpu, cuda, npu, simulated"
            )
    log.info("device %s: %s", device.name, device.description)
    return device


def best_device() -> str:
    """What "auto" chooses: a GPU if there is one, else an NPU, else the CPU."""
    from glm4v.device.cuda.presence import has_gpu
    from glm4v.device.npu.package import has_npu

    if has_gpu():
        return "cuda"
    return "npu" if has_npu() else "cpu"
