"""How a process wants to compute: its device, dtypes and place on the host."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from glm4v.checkpoint.quantized import CHANNELS, GROUPS, Quantization
from glm4v.errors import ConfigurationError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_QUANTIZATIONS = {"int8": GROUPS, "int8-channel": CHANNELS}
_WEIGHT_DTYPES = {**_DTYPES, **dict.fromkeys(_QUANTIZATIONS, torch.int8)}


class _Settings(Protocol):
    """The settings of a worker that concern its device."""

    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def weight_dtype(self) -> str: ...
    @property
    def threads(self) -> int: ...


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """What `open_device` needs to know."""

    device: str = "auto"
    dtype: str = "auto"  # of activations and cache
    weight_dtype: str = "auto"  # of stored weights
    threads: int = 0  # of the CPU; 0 takes all usable cores
    is_bfloat16: bool = False  # the checkpoint's weights are bfloat16
    quantized_by: str = ""  # what has quantized them in 8 bits or fewer, for people
    local_rank: int = 0  # of this process among those of its group on this host: its device index
    local_size: int = 1  # processes of its group on this host
    group_size: int = 1  # processes of its group on all hosts

    @classmethod
    def from_settings(
        cls,
        settings: _Settings,
        *,
        is_bfloat16: bool,
        quantized_by: str = "",
        local_rank: int = 0,
        local_size: int = 1,
        group_size: int = 1,
    ) -> "DeviceOptions":
        """The options of one process of a worker."""
        return cls(
            settings.device,
            settings.dtype,
            settings.weight_dtype,
            settings.threads,
            is_bfloat16,
            quantized_by,
            local_rank,
            local_size,
            group_size,
        )


def parse_dtype(name: str) -> torch.dtype | None:
    """The dtype called `name`, None for "auto"; raises ConfigurationError for other names."""
    return _parse(name, _DTYPES)


def parse_weight_dtype(name: str) -> torch.dtype | None:
    """The same for stored weights, which may have 8 bits."""
    return _parse(name, _WEIGHT_DTYPES)


def parse_quantization(name: str) -> Quantization | None:
    """How the weight dtype called `name` quantizes; None for one that does not."""
    return _QUANTIZATIONS.get(name)


def describe_int8(quantization: Quantization | None, quantized_by: str) -> str:
    """Where 8-bit weights come from, for people: "int8 per group", "int8 by GPTQ"; "" for none.

    `quantized_by` is that of a checkpoint whose matrices the device keeps as they are.
    """
    if quantization is not None:
        return f"int8 per {'group' if quantization.group else 'channel'}"
    return quantized_by and f"int8 by {quantized_by}"


def _parse(name: str, dtypes: Mapping[str, torch.dtype]) -> torch.dtype | None:
    if name == "auto":
        return None
    if name not in dtypes:
        raise ConfigurationError(f"unknown dtype {name!r}; use one of auto, {', '.join(dtypes)}")
    return dtypes[name]
