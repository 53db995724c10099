"""Variables that Ascend's libraries read; docs/ascend.md has a table of them."""

from collections.abc import Mapping, MutableMapping

from glm4v.errors import ConfigurationError

# What is set already stays as it is.
DEFAULTS = {
    "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",  # imported by this package alone
    "TASK_QUEUE_ENABLE": "1",  # 2 is faster in places and takes more memory at the peak
    "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
    "HCCL_CONNECT_TIMEOUT": "120",
    "HCCL_BUFFSIZE": "200",
    "TORCH_NPU_FALLBACK_CPU_DISABLE": "1",  # an operator without a kernel is an error
}

_MEGABYTE = 2**20


def set_defaults(environment: MutableMapping[str, str]) -> None:
    """Put the defaults into `environment` where it says nothing."""
    for name, value in DEFAULTS.items():
        environment.setdefault(name, value)


def hccl_buffer_bytes(environment: Mapping[str, str]) -> int:
    """Device memory that HCCL takes for one communicator: a buffer to send, one to receive."""
    text = environment.get("HCCL_BUFFSIZE") or DEFAULTS["HCCL_BUFFSIZE"]
    if not text.isdecimal():
        raise ConfigurationError(f"HCCL_BUFFSIZE is {text!r}; it is a number of megabytes")
    return 2 * int(text) * _MEGABYTE
