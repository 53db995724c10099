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
    "INF_NAN_MODE_ENABLE": "1",  # 0 would hide results that are not finite
    # Of the guide to GLM-4V in ATB-Models; torch_npu does not read them.
    "ATB_OPERATION_EXECUTE_ASYNC": "1",
    "ATB_CONVERT_NCHW_TO_ND": "1",
    "ATB_CONTEXT_WORKSPACE_SIZE": "0",
    "ATB_LAYER_INTERNAL_TENSOR_REUSE": "1",
    "ATB_WORKSPACE_MEM_ALLOC_GLOBAL": "1",
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
